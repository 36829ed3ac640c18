"""Nodes of a cluster that take part in what trains, as the other processes of torchrun do.

Ray Train's TorchTrainer is not used: it would run the whole fit as its function on the nodes, while here one process
decides and the others join it for a phase.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from frostline import distributed, terminal
from frostline.cluster import at_work, slots_of
from frostline.machine import Machine
from frostline.plan import Phase

LEAST = 8  # images of a batch per process: with fewer, sums of gradients cost more than they save


@contextlib.contextmanager
def members(machine: Machine, phase: Phase) -> Iterator[None]:
    """Let free nodes of the machine's cluster take part in what trains inside; they leave at the end.

    They must have devices of this process's kind. Nothing joins a process that trains with others already.
    """
    if machine.cluster is None or distributed.current() is not None or phase.batch_size < 2 * LEAST:
        yield
        return
    slots = slots_of(replace(machine.cluster, device=machine.device.type))
    if bool(slots.gpus) != (machine.device.type == "cuda"):
        yield
        return
    with at_work(take_part, slots, phase.batch_size // LEAST) as found:
        if found is None:
            yield
            return
        size, address = found
        distributed.join(0, size, address, machine.device.index or 0)
        terminal.say(f"training in {size} processes")
        try:
            yield
        finally:
            distributed.leave()


def take_part(rank: int, size: int, address: str) -> None:
    """Take part in the trainings of rank 0, in a process on a node."""
    from frostline.training.parallel import work

    group = distributed.join(rank, size, address)
    try:
        work(group)
    finally:
        distributed.leave()
