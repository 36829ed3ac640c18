"""Processes that join, and what a process says of another one that is gone."""

from __future__ import annotations

import signal
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from conftest import assert_same_state, state_of
from frostline import distributed
from frostline.data.images import Images
from frostline.data.targets import TableTargets
from frostline.errors import MachineError
from frostline.store.activations import Activations, Filled
from frostline.store.reading import HeldRows
from frostline.training import summing
from frostline.training.scale import scale_of
from processes import free_address, started
from trainings import PHASE, training


@pytest.fixture
def impatient(monkeypatch):
    """To be asked for before `other`."""
    monkeypatch.setattr(distributed, "STEP", timedelta(seconds=2))


@pytest.fixture
def other():
    """Another process, which this one has joined."""
    address = free_address()
    with started(1, 2, address) as process:
        distributed.join(0, 2, address)
        yield process
        process.kill()
        process.wait()
        distributed.leave()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"},
        {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
        {"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"},
    ],
    ids=["none", "alone", "no address", "no number"],
)
def test_a_process_of_its_own_was_not_launched_with_others(environment):
    assert distributed.launched(environment) is None
    assert (distributed.current(), distributed.size()) == (None, 1)


def test_a_command_is_begun_as_torchrun_began_this_one():
    four = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}
    assert distributed.launcher({}) == ""
    assert distributed.launcher(four) == "torchrun --nproc-per-node 4 -m "
    assert distributed.launcher({**four, "LOCAL_WORLD_SIZE": "2"}) == "torchrun --nproc-per-node 2 -m "


def test_processes_that_do_not_find_each_other_are_told_where_they_looked(monkeypatch):
    monkeypatch.setattr(distributed, "JOINING", distributed.STEP / 30)
    address = free_address()
    with pytest.raises(MachineError, match=f"^process 1 of 2 cannot join the others at {address} ") as error:
        distributed.join(1, 2, address)
    assert "\n" not in str(error.value)
    assert distributed.current() is None


def raising(logits: Tensor, targets: Tensor) -> Tensor:
    if distributed.current().rank:
        raise ValueError("no such loss here")
    return functional.cross_entropy(logits, targets)


@pytest.mark.parametrize(
    ("how", "message"),
    [("raises", "process 1 of 2 failed: no such loss here"), ("is killed", "process 1 of 2 has ended")],
)
def test_another_process_that_ends_is_told_in_one_line(how, message, other, fp32):
    """And the last step is undone, so that the state is that of the step before."""
    loss = raising if how == "raises" else functional.cross_entropy
    run = training("stem", machine=fp32, phase=replace(PHASE, batchnorm="updated"), loss=loss)
    steps = run.steps()
    if how == "is killed":
        next(steps)
        other.send_signal(signal.SIGKILL)
        other.wait()
    before, position = state_of(run.upper), run.position
    with pytest.raises(MachineError, match=f"^{message}$"):
        next(steps)
    assert_same_state(before, run.upper)
    assert run.position == position
    assert distributed.on_the_way_out()


def test_another_process_that_ends_before_validation_is_told_and_no_step_is_lost(other, fp32):
    run = training("stem", machine=fp32, phase=replace(PHASE, batchnorm="updated"))
    steps = run.steps()
    taken = [next(steps) for _ in range(4)]
    assert taken == [None] * 4
    before, position = state_of(run.upper), run.position
    other.send_signal(signal.SIGKILL)
    other.wait()
    with pytest.raises(MachineError, match="^process 1 of 2 has ended$"):
        next(steps)
    assert_same_state(before, run.upper)
    assert (run.epoch, run.position, position.steps) == (0, position, 4)


def test_another_process_that_ends_while_sums_are_taken_is_told(other, monkeypatch):
    monkeypatch.setattr(summing, "MANY", 100)
    x = torch.randn(200, 4)
    images = Images(np.zeros((200, 1, 1), np.uint8), np.arange(200) % 2, [str(i) for i in range(200)])
    targets = TableTargets(torch.from_numpy(images.targets), 1)
    rows = Activations(images, 1, HeldRows(x), targets, Filled(0, 200, 0.0, 0, "memory"))
    total = summing.summing(rows, 4, 2).__enter__()
    assert scale_of(rows.batches, total).mean.tolist() == pytest.approx(x.mean(0).tolist(), abs=1e-5)
    other.send_signal(signal.SIGKILL)
    other.wait()
    with pytest.raises(MachineError, match="^process 1 of 2 has ended$"):
        scale_of(rows.batches, total)
    assert distributed.on_the_way_out()


@pytest.mark.usefixtures("impatient")
@pytest.mark.long
def test_a_process_that_hangs_is_not_waited_for(other, fp32):
    run = training(machine=fp32)
    steps = run.steps()
    next(steps)
    other.send_signal(signal.SIGSTOP)
    with pytest.raises(MachineError, match=r"^one of 2 processes is gone, or has not answered in time$"):
        next(steps)


def test_sigterm_of_torchrun_is_no_wish_of_the_user_if_another_process_has_ended(other):
    assert distributed.lost() is None
    other.kill()
    other.wait()
    assert str(distributed.lost()).startswith("process 1 of 2 has ended")
    assert distributed.lost() is None  # said once
