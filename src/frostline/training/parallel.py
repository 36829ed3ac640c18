"""A training in several processes: rank 0 trains as ever, and the others take part in its steps.

Rank 0 sends the part that trains, its optimizer and where the rows are; for each epoch the rows of each step; for each
step that it comes, with its learning rate; and between epochs which validation rows come next. So whatever ends a
training (an early stop, Ctrl-C, a diverged loss) is rank 0's affair, and the state of a training is that of one
process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from frostline import terminal
from frostline.data.targets import TargetReader
from frostline.distributed import (
    END,
    EPOCH,
    JUDGE,
    STEPS,
    STOP,
    SUM,
    SUMMED,
    SUMMING,
    TRAIN,
    Group,
    answering,
    current,
    failed,
    is_of_others,
    on_the_way_out,
    own_device,
    ready,
    receive,
    received,
    send,
    wait_until_ready,
)
from frostline.errors import MachineError
from frostline.machine import exact
from frostline.store.activations import Activations
from frostline.store.reading import Reader, bring, read_ahead
from frostline.training.chance import drawn_from, seed_of, seeded
from frostline.training.pickling import obstacle, pickled, unpickled
from frostline.training.steps import Mix, Stepper
from frostline.training.summing import Share
from frostline.training.together import Together, joined, leaves_out_parameters


@dataclass(frozen=True, eq=False)
class Replica:
    """What another process needs to take part. It is pickled whole, so the optimizer keeps its parameters.

    valid: the validation rows; None if rank 0 judges alone.
    """

    stepper: Stepper
    fetch: Reader
    valid: Reader | None
    targets: TargetReader
    seed: int
    unused: bool


@contextlib.contextmanager
def in_all_processes(stepper: Stepper, train: Activations, valid: Activations, seed: int) -> Iterator[None]:
    """Take the steps inside in all processes of the group, if there is one; for rank 0.

    One training at a time is in all processes. One whose rows, network or loss cannot be sent stays in this process;
    so does validation if only its rows cannot.
    """
    group = current()
    if group is None:
        yield
        return
    sample = train.fetch(torch.arange(1)).to(stepper.device)
    unused = leaves_out_parameters(stepper.computed, sample)
    rows = None if valid.images.task == "segmentation" else valid.fetch  # all logits of maps would be in each process
    replica, data = _sendable(Replica(stepper, train.fetch, rows, train.targets, seed, unused))
    if data is None:
        yield
        return
    number = group.store.add("trainings", 1)
    send(group, TRAIN, number, value=data)
    del data
    wait_until_ready(group, number)
    with answering(group):
        stepper.together = _joined(replica, group)
    try:
        yield
    finally:
        stepper.together = None
        if not on_the_way_out():
            send(group, STOP)


def _joined(replica: Replica, group: Group) -> Together:
    return joined(replica.stepper.computed, group, unused=replica.unused, judges=replica.valid is not None)


def _sendable(replica: Replica) -> tuple[Replica, bytearray | None]:
    """What is sent, and its bytes; None, and a line says why, if that is impossible."""
    if replica.stepper.device.type not in ("cpu", "cuda"):
        terminal.say(f"training in one process: {replica.stepper.device.type} devices cannot work together")
        return replica, None
    try:
        return replica, pickled(replace(replica, stepper=replace(replica.stepper, _modes=[])))
    except TypeError as error:
        if replica.valid is not None:  # maybe it is only these rows
            return _sendable(replace(replica, valid=None))
        why = obstacle(error, "its network or loss", "at each step")
        terminal.say(f"training in one process: {why}")
        return replica, None


def send_epoch(stepper: Stepper, epoch: int, first: int, batches: Sequence[Tensor]) -> None:
    """Tell the other processes, if there are any, the rows of the steps from `first` on."""
    if stepper.together is not None:
        send(stepper.together.group, EPOCH, value=pickled((epoch, first, list(batches))))


def send_step(stepper: Stepper, factor: float, mix: Mix | None) -> None:
    """Tell the other processes, if there are any, to take the next step."""
    if stepper.together is not None:
        share, order = (0.0, None) if mix is None else (mix.share, mix.order.cpu())
        send(stepper.together.group, STEPS, factor, share, value=order)


def judged(stepper: Stepper, together: Together, valid: Activations, rows: Tensor) -> Tensor:
    """The logits of some validation rows that follow each other, of which each process computes its part."""
    send(together.group, JUDGE, float(rows[0]), float(len(rows)))
    return _logits(stepper, together, valid.fetch, rows)


@torch.inference_mode()
def _logits(stepper: Stepper, together: Together, fetch: Reader, rows: Tensor) -> Tensor:
    if not rows[0]:
        together.take_buffers()
    stepper.computed.eval()
    with exact(stepper.device):
        logits: Tensor = stepper.computed(fetch(together.part(rows)).to(stepper.device)).float()
    return together.gathered(logits, len(rows))


def work(group: Group) -> int:
    """Take part in the trainings of rank 0 until it says the end or is gone; the exit code of the process."""
    try:
        _follow(group)
    except Exception as error:  # whatever it is, rank 0 tells it
        if not is_of_others(error):
            failed(group, error)
        return MachineError.exit_code
    return 0


def _follow(group: Group) -> None:
    member: _Member | None = None
    share: Share | None = None
    while True:
        kind, first, second, count = receive(group)
        value = received(group, count, numbers=kind == STEPS) if count else None
        if kind == END:
            return
        if kind == TRAIN and value is not None:
            member = share = None  # before the next one takes memory
            member = _Member(group, int(first), unpickled(group, value))
        elif kind == EPOCH and value is not None and member is not None:
            member.begin(*unpickled(group, value))
        elif kind == STEPS and member is not None:
            member.step(first, None if value is None else Mix(second, value))
        elif kind == JUDGE and member is not None:
            member.judge(int(first), int(second))
        elif kind == STOP:
            member = None
        elif kind == SUMMING and value is not None:  # maybe within a training
            share = None
            share = unpickled(group, value)
            ready(group, int(first))
        elif kind == SUM and value is not None and share is not None:
            function, arguments = unpickled(group, value)
            share.sum(group, function, *arguments)
        elif kind == SUMMED:
            share = None
        else:
            raise MachineError(f"rank 0 sent a message {kind} that nothing here is for")


class _Member:
    """A training in a process other than rank 0."""

    def __init__(self, group: Group, number: int, replica: Replica) -> None:
        self.group, self.replica, self.stepper = group, replica, replica.stepper
        if self.stepper.device.type == "cuda":
            self.stepper.device = own_device(group)
        for reader in (replica.fetch, replica.valid):
            if reader is not None:
                bring(reader)
        ready(group, number)
        self.stepper.together = _joined(replica, group)
        self.epoch, self.number = 0, 0
        self.batches: Iterator[tuple[Tensor, Tensor, Tensor]] = iter(())

    def begin(self, epoch: int, first: int, batches: list[Tensor]) -> None:
        self.epoch, self.number = epoch, first
        self.batches = read_ahead(self.replica.fetch, self.replica.targets, batches, self.stepper.read)

    def step(self, factor: float, mix: Mix | None) -> None:
        """Take a step as rank 0 does. What dropout draws depends on the rank: each has other images."""
        device = self.stepper.device
        _, inputs, targets = next(self.batches)
        seed = seed_of(self.replica.seed, self.stepper.phase.frostline, self.epoch, self.number, self.group.rank)
        self.number += 1
        with exact(device), drawn_from(seeded(seed, device), device):
            self.stepper.set_lr(factor)
            mix = None if mix is None else Mix(mix.share, mix.order.to(device))
            self.stepper.gradients(inputs.to(device), targets.to(device), mix)
            self.stepper.update()

    def judge(self, start: int, count: int) -> None:
        """Compute this process's part of the logits of some validation rows."""
        together, valid = self.stepper.together, self.replica.valid
        if together is not None and valid is not None:
            with self.stepper.inside():
                _logits(self.stepper, together, valid, torch.arange(start, start + count))
