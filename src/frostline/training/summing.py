"""Sums over very many rows, as a head that is solved needs them: in this process, or each of several sums over its own.

Only sums travel, and what they are taken at, such as the weights of a head. The same rows come to the same process in
every pass, so what it has read before is near.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from frostline import terminal
from frostline.data.targets import TargetReader
from frostline.distributed import SUM, SUMMED, SUMMING, Group, answering, current, send, wait_until_ready
from frostline.store.activations import Activations
from frostline.store.reading import Reader, read_ahead
from frostline.training.pickling import obstacle, pickled
from frostline.training.scale import BLOCK_BYTES, Blocks, Total, blocks_of, total_of

MANY = 64_000_000  # numbers from which each pass counts: 256 MB, which are no longer kept in memory
TURN = 64_000_000  # bytes of rows that a process reads,
WORK = 50_000_000_000  # and products of rows and weights that it computes, at a turn: seconds
SLOWEST = timedelta(minutes=3)  # for which one waits for the turn of another; a bucket may be asked again for a minute
ENOUGH = 1_000_000_000  # bytes of rows of each process: with fewer, to start one takes longer than it saves


@dataclass(frozen=True, eq=False)
class Share:
    """All rows (D,) and their targets, of which a process takes its own. count: of rows. width: D. turn: rows that a
    process sums before it says that it is still there."""

    fetch: Reader
    targets: TargetReader
    count: int
    width: int
    turn: int

    def sum(self, group: Group, function: Total, *arguments: Any) -> Tensor:
        """`function(blocks, *arguments)` over all rows, in all processes, which call this at the same time.

        What is raised in one process ends the sum in all of them, so that they stay in step.
        """
        first, last = (self.count * rank // group.size for rank in (group.rank, group.rank + 1))
        result = function(self._blocks(first, first), *arguments)
        for start in range(0, -(-self.count // group.size), self.turn):
            failure: BaseException | None = None
            try:
                begin, end = (min(first + each, last) for each in (start, start + self.turn))
                if begin < end:
                    result = result + function(self._blocks(begin, end), *arguments)
            except BaseException as error:  # Ctrl-C, too
                failure = error
            of_rank_0, of_others = _failures(group, failed=failure is not None)
            if failure is not None:
                raise failure
            if of_others:
                raise RuntimeError("a peer failed")  # why, is in the group's store
            if of_rank_0:
                return result
        return _added(result, group)

    def _blocks(self, first: int, last: int) -> Blocks:
        size = max(1, BLOCK_BYTES // (4 * self.width))

        def blocks() -> Iterator[tuple[Tensor, Tensor]]:
            batches = (torch.arange(start, min(start + size, last)) for start in range(first, last, size))
            return ((x.flatten(1), y) for _, x, y in read_ahead(self.fetch, self.targets, batches))

        return blocks


def _added(x: Tensor, group: Group) -> Tensor:
    """The sum of a tensor over all processes."""
    result = x.clone()
    work: Any = torch.distributed.all_reduce(result, group=group.control, async_op=True)
    work.wait(SLOWEST)
    return result


def _failures(group: Group, *, failed: bool) -> tuple[bool, bool]:
    """Whether rank 0 has failed, and whether any of the others has."""
    flags = _added(torch.tensor([failed and group.rank == 0, failed and group.rank > 0], dtype=torch.float32), group)
    return bool(flags[0]), bool(flags[1])


def are_many(features: Activations, width: int) -> bool:
    """Whether the rows (D,) are so many that several processes share the passes over them. width: D."""
    return len(features) * width > MANY


def processes_for(features: Activations) -> int:
    """How many processes have enough to do if they share the passes over the rows; at least 1."""
    if features.filled.kept != "stored":
        return 1
    return max(1, 4 * len(features) * features.fetch(torch.arange(1)).numel() // ENOUGH)


@contextlib.contextmanager
def summing(features: Activations, width: int, classes: int) -> Iterator[Total]:
    """How sums over all rows are taken: if these are many, by all processes of the group; for rank 0.

    Rows that cannot be sent are summed in this process, and a line says so.
    Raises MachineError inside if another process is gone.
    """
    group = current()
    turn = max(1, min(TURN // (4 * width), WORK // (width * classes)))
    share = Share(features.fetch, features.targets, len(features), width, turn)
    data = _sendable(share) if group is not None and are_many(features, width) else None
    if group is None or data is None:
        yield total_of(blocks_of(features, width))
        return
    number = group.store.add("trainings", 1)
    send(group, SUMMING, number, value=data)
    del data
    wait_until_ready(group, number)

    def total(function: Total, *arguments: Any) -> Tensor:
        send(group, SUM, value=pickled((function, arguments)))
        with answering(group):
            return share.sum(group, function, *arguments)

    yield total
    send(group, SUMMED)  # not after an error: the next one who sums replaces the rows


def _sendable(share: Share) -> bytearray | None:
    try:
        return pickled(share)
    except TypeError as error:
        terminal.say(f"solving the head in one process: {obstacle(error, 'its rows', 'in each pass')}")
        return None
