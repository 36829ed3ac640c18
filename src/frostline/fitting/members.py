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
from frostline.store.activations import Activations
from frostline.training.summing import processes_for

LEAST = 8  # images of a batch per process: with fewer, sums of gradients cost more than they save


def training_members(machine: Machine, phase: Phase, said: set[str]) -> contextlib.AbstractContextManager[None]:
    """Let free nodes of the machine's cluster take part in the steps inside; they leave at the end.

    Where none of several nodes joins, a line says why. said: the lines of this fit, none of which is said twice.
    """
    few = f"a batch has {phase.batch_size} images; --batch-size {2 * LEAST} or more is shared, {LEAST} per process"
    return _members(machine, machine.device.type, phase.batch_size // LEAST, "training", said, few)


def solving_members(machine: Machine, features: Activations, said: set[str]) -> contextlib.AbstractContextManager[None]:
    """The same for the passes over very many rows, of which a head is solved; the processors of the nodes make them."""
    return _members(machine, "cpu", processes_for(features) if machine.cluster else 1, "solving the head", said, "")


@contextlib.contextmanager
def _members(machine: Machine, device: str, most: int, doing: str, said: set[str], few: str) -> Iterator[None]:
    """Let free nodes take part in what is computed inside.

    Nothing joins a process that computes with others already, and a cluster of one node has no others. device: "cpu",
    or the kind that each process takes one of. most: processes that have enough to do, with this one. few: the line if
    this process is enough.
    """
    if machine.cluster is None or distributed.current() is not None or nodes_of_cluster() < 2:
        yield
        return
    slots = slots_of(replace(machine.cluster, device=device))
    if why := few if most < 2 else _alone(device, slots):
        _say_once(doing, why, said)
    if most < 2 or why:
        yield
        return
    with at_work(take_part, slots, most) as found:
        if found is None:
            _say_once(doing, "no other node of the cluster is free; end other work there, or add nodes", said)
            yield
            return
        size, address = found
        distributed.join(0, size, address, machine.device.index or 0)
        terminal.say(f"{doing} in {size} processes")
        try:
            yield
        finally:
            distributed.leave()


def _alone(device: str, slots: Slots) -> str:
    """Why no node can join, and what to do; "" if some can."""
    if is_outside():
        return (
            "over ray:// a cluster computes only the passes over images; to train there, submit the command with "
            "`ray job submit`, and --on ray"
        )
    if bool(slots.gpus) != (device == "cuda"):
        return f"it computes on {device}, and the nodes do not; --device cpu computes on the processors of all"
    return ""


def _say_once(doing: str, why: str, said: set[str]) -> None:
    if why not in said:
        said.add(why)
        terminal.say(f"{doing} in this process alone: {why}")


def take_part(rank: int, size: int, address: str) -> None:
    """Take part in the trainings of rank 0, in a process on a node."""
    from frostline.training.parallel import work

    group = distributed.join(rank, size, address)
    try:
        work(group)
    finally:
        distributed.leave()
