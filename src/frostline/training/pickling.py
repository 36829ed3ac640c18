"""What rank 0 sends to other processes, as bytes.

The processes of a fit trust each other: what comes from rank 0 is unpickled, and nothing else is.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from frostline.distributed import Group, own_device
from frostline.errors import reason
from frostline.store.reading import STAYS

DEEP = 100_000  # calls that pickling a graph of a thousand nodes takes


def pickled(value: Any) -> bytearray:
    """A value as bytes; tensors and parameters that it holds twice are the same again in the other process.

    Raises TypeError for a value that cannot be sent.
    """
    buffer = io.BytesIO()
    try:
        with _deep():
            torch.save(value, buffer)
    except (AttributeError, pickle.PicklingError, RecursionError) as error:
        raise TypeError(reason(error)) from error
    return bytearray(buffer.getbuffer())


def obstacle(error: TypeError, what: str, when: str) -> str:
    """Why something cannot be sent, and what to do. what: it, as a subject. when: its rows would be computed again."""
    if str(error) != STAYS:
        return f"{what} cannot be sent: {reason(error)}"
    return (
        f"its rows are computed again {when}, and only stored rows can be shared; leave out --no-cache, or give the "
        "store room (--cache-budget)"
    )


def unpickled(group: Group, data: Tensor) -> Any:
    """The value of some bytes, with what was on a CUDA device on that of this process."""

    def placed(storage: Any, location: str) -> Any:
        if not location.startswith("cuda"):
            return storage
        return torch.serialization.default_restore_location(storage, str(own_device(group)))

    with _deep():
        return torch.load(io.BytesIO(data.numpy().tobytes()), map_location=placed, weights_only=False)


@contextlib.contextmanager
def _deep() -> Iterator[None]:
    """Each node of a graph refers to the next one."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(max(usual, DEEP))
    try:
        yield
    finally:
        sys.setrecursionlimit(usual)
