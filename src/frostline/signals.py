"""Ctrl-C and SIGTERM, where a step must be finished or a clean-up must not stop half-way.

Python runs handlers of signals in the main thread only; in other threads nothing here has an effect.
"""

from __future__ import annotations

import _thread
import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

GRACE = 8.0  # seconds to finish a step and save it
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Held:
    """Signals that wait for `act`, for some seconds; a second one acts at once. came: whether one waits."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.came: int | None = None
        self._timer: threading.Timer | None = None
        here = threading.current_thread() is threading.main_thread()
        handlers = {number: signal.getsignal(number) for number in SIGNALS} if here else {}
        self._own: dict[int, Any] = {n: h for n, h in handlers.items() if h not in (signal.SIG_IGN, None)}

    def hold(self) -> None:
        for number in self._own:
            signal.signal(number, self._hold)

    def release(self) -> None:
        """Give the signals back to their own handlers; one that waits acts."""
        for number, handler in self._own.items():
            signal.signal(number, handler)
        self.act()

    def act(self) -> None:
        """Let a signal that waits act: usually that raises an exception, but a program's own handler may return."""
        if self.came is None:
            return
        number, self.came = self.came, None
        if self._timer is not None:
            self._timer.cancel()
        handler = self._own[number]
        if callable(handler):
            handler(number, None)
        else:  # the system's own way, which ends the process
            signal.signal(number, handler)
            signal.raise_signal(number)

    def _hold(self, number: int, _: FrameType | None) -> None:
        if self.came is not None:
            self.act()
            return
        self.came = number
        self._timer = threading.Timer(self.seconds, _send, [number])
        self._timer.daemon = True
        self._timer.start()


@contextlib.contextmanager
def held_back(seconds: float = GRACE) -> Iterator[Held]:
    """Hold back Ctrl-C and SIGTERM, so that the block can finish a step and save it.

    A signal acts where the block says so, with `act`; else at its end, after some seconds, or when a second one comes.
    """
    held = Held(seconds)
    held.hold()
    try:
        yield held
    finally:
        held.release()


def _send(number: int) -> None:
    """Send a signal to the main thread, so that it leaves what it waits for; after a first one it acts at once."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:  # on Windows
        _thread.interrupt_main(signal.Signals(number))


def undisturbed() -> contextlib.AbstractContextManager[None]:
    """Ignore Ctrl-C and SIGTERM for the milliseconds of a clean-up that must not stop half-way."""
    return handled_by(signal.SIG_IGN)


@contextlib.contextmanager
def handled_by(handler: Any) -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM in another way inside."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, own in before.items():
            signal.signal(number, own)
