"""Memory for decoding: a bound for all threads together, and whose fault it is if it runs out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

PIXEL = 12  # bytes that a pixel takes in the worst case: as it is stored, and twice as it is converted


class Room:
    """Lets threads in as long as their images have at most `most` pixels together; an image with more goes alone.

    A thread that is inside already is let in again at once: it would wait for itself.
    """

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0
        self._freed, self._own = threading.Condition(), threading.local()

    @contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        """Waits until there is room for that many pixels, and keeps it in this context."""
        depth = getattr(self._own, "depth", 0)
        with self._freed:
            self._freed.wait_for(lambda: depth or not self.used or self.used + pixels <= self.most)
            self.used += pixels
        self._own.depth = depth + 1
        try:
            yield
        finally:
            self._own.depth = depth
            with self._freed:
                self.used -= pixels
                self._freed.notify_all()


def has_memory(size: int) -> bool:
    """Whether this process can have so many bytes: if not, an image that failed for memory is not at fault."""
    try:
        np.empty(size, np.uint8)
    except MemoryError:
        return False
    return True
