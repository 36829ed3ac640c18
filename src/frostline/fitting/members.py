"""Nodes of a cluster that take part in what trains, as the other processes of torchrun do.

Ray Train's TorchTrainer is not used: it would run the whole fit as its function on the nodes, while here one process
decides and the others join it for a phase.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from frostline import distributed, terminal
from frostline.cluster import Slots, at_work, is_outside, nodes_of_cluster, slots_of
from frostline.machine import Machine
from frostline.plan import Phase

LEAST = 8  # images of a batch per process: with fewer, sums of gradients cost more than they save


@contextlib.contextmanager
def members(machine: Machine, phase: Phase, said: set[str]) -> Iterator[None]:
    """Let free nodes of the machine's cluster take part in what trains inside; they leave at the end.

    Nothing joins a process that trains with others already, and a cluster of one node has no others. Where none of
    several nodes joins, a line says why. said: the lines of this fit, none of which is said twice.
    """
    if machine.cluster is None or distributed.current() is not None or nodes_of_cluster() < 2:
        yield
        return
    slots = slots_of(replace(machine.cluster, device=machine.device.type))
    if why := _alone(machine, phase, slots):
        _say_once(why, said)
        yield
        return
    with at_work(take_part, slots, phase.batch_size // LEAST) as found:
        if found is None:
            _say_once("no other node of the cluster is free; end other work there, or add nodes", said)
            yield
            return
        size, address = found
        distributed.join(0, size, address, machine.device.index or 0)
        terminal.say(f"training in {size} processes")
        try:
            yield
        finally:
            distributed.leave()


def _alone(machine: Machine, phase: Phase, slots: Slots) -> str:
    """Why no node can join, and what to do; "" if some can."""
    if is_outside():
        return (
            "over ray:// a cluster computes only the passes over images; to train there, submit the command with "
            "`ray job submit`, and --on ray"
        )
    if phase.batch_size < 2 * LEAST:
        return f"a batch has {phase.batch_size} images; --batch-size {2 * LEAST} or more is shared, {LEAST} per process"
    if bool(slots.gpus) != (machine.device.type == "cuda"):
        kind = machine.device.type
        return f"it computes on {kind}, and the nodes do not; --device cpu computes on the processors of all"
    return ""


def _say_once(why: str, said: set[str]) -> None:
    if why not in said:
        said.add(why)
        terminal.say(f"training in this process alone: {why}")


def take_part(rank: int, size: int, address: str) -> None:
    """Take part in the trainings of rank 0, in a process on a node."""
    from frostline.training.parallel import work

    group = distributed.join(rank, size, address)
    try:
        work(group)
    finally:
        distributed.leave()
