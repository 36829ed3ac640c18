"""Sums over very many rows, as a head that is solved needs them: in this process, or each of several sums over its own.

Only sums travel, and what they are taken at, such as the weights of a head. The same rows come to the same process in
every pass, so what it has read before is near.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from frostline import terminal
from frostline.data.targets import TargetReader
from frostline.distributed import (
    ROWS,
    STOP,
    SUM,
    Group,
    answering,
    current,
    send,
    wait_until_ready,
)
from frostline.errors import reason
from frostline.store.activations import Activations
from frostline.store.reading import STAYS, Reader, read_ahead
from frostline.training.pickling import pickled
from frostline.training.scale import BLOCK_BYTES, Blocks, Total, blocks_of, total_of
from frostline.training.together import summed

MANY = 64_000_000  # numbers from which each pass counts: 256 MB, which are no longer kept in memory
RECOMPUTED = (
    "its rows are computed again in each pass, and only stored rows can be shared; leave out --no-cache, or give the "
    "store room (--cache-budget)"
)
TURN = 256_000_000  # bytes that a process reads between two messages: seconds, because all wait for the slowest
ENOUGH = 1_000_000_000  # bytes of rows of each process: with fewer, to start one takes longer than it saves


@dataclass(frozen=True, eq=False)
class Share:
    """All rows (D,) and their targets, of which a process takes its own. width: D."""

    fetch: Reader
    targets: TargetReader
    width: int

    def sum(self, group: Group, start: int, stop: int, function: Total, *arguments: Any) -> Tensor:
        """`function(blocks, *arguments)` over these rows, in all processes, which call this at the same time."""
        first, last = (start + (stop - start) * rank // group.size for rank in (group.rank, group.rank + 1))
        return summed(function(self._blocks(first, last), *arguments), group)

    def _blocks(self, first: int, last: int) -> Blocks:
        size = max(1, BLOCK_BYTES // (4 * self.width))

        def blocks() -> Iterator[tuple[Tensor, Tensor]]:
            batches = (torch.arange(start, min(start + size, last)) for start in range(first, last, size))
            return ((x.flatten(1), y) for _, x, y in read_ahead(self.fetch, self.targets, batches))

        return blocks


def are_many(features: Activations, width: int) -> bool:
    """Whether the rows (D,) are so many that several processes share the passes over them. width: D."""
    return len(features) * width > MANY


def processes_for(features: Activations) -> int:
    """How many processes have enough to do if they share the passes over the rows; at least 1."""
    width = features.fetch(torch.arange(1)).numel()
    return max(1, 4 * len(features) * width // ENOUGH) if are_many(features, width) else 1


@contextlib.contextmanager
def summing(features: Activations, width: int) -> Iterator[Total]:
    """How sums over all rows are taken: if these are many, by all processes of the group; for rank 0.

    Rows that cannot be sent are summed in this process, and a line says so.
    Raises MachineError inside if another process is gone.
    """
    group = current()
    share = Share(features.fetch, features.targets, width)
    data = _sendable(share) if group is not None and are_many(features, width) else None
    if group is None or data is None:
        yield total_of(blocks_of(features, width))
        return
    number = group.store.add("trainings", 1)
    send(group, ROWS, number, value=data)
    del data
    wait_until_ready(group, number)

    def total(function: Total, *arguments: Any) -> Tensor:
        asked, turn = pickled((function, arguments)), group.size * max(1, TURN // (4 * width))
        result = torch.zeros(())
        for start in range(0, len(features), turn):
            stop = min(start + turn, len(features))
            send(group, SUM, start, stop, value=asked)
            with answering(group):
                result = result + share.sum(group, start, stop, function, *arguments)
        return result

    yield total
    send(group, STOP)  # not after an error: the others may not listen, or are gone


def _sendable(share: Share) -> bytearray | None:
    try:
        return pickled(share)
    except TypeError as error:
        why = RECOMPUTED if str(error) == STAYS else f"its rows cannot be sent: {reason(error)}"
        terminal.say(f"solving the head in one process: {why}")
        return None
