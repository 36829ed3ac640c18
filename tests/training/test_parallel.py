"""The steps of two processes are those of one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd

from conftest import draw_images
from frostline import distributed
from frostline.tasks import loss_of
from frostline.training import parallel, summing
from frostline.training.judging import predict_all
from frostline.training.probe import solve
from frostline.training.training import Training
from processes import group_of_two
from regressions import held
from trainings import PHASE, classification, multilabel, of_task, segmentation, training

WEIGHTS = torch.tensor([0.2, 1.0, 3.0])
ONE = replace(PHASE, epochs=1)


def own_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Depends on the batch as a whole: no mean of parts gives it."""
    return functional.cross_entropy(logits, targets, reduction="none").square().mean().sqrt()


@pytest.fixture(scope="module")
def group():
    with group_of_two() as both:
        yield both


def without_dropout(run: Training) -> Training:
    """What it draws differs between processes."""
    for module in run.upper.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
    return run


def losses_of(run: Training, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The loss of every step, without dropout."""
    without_dropout(run)
    losses: list[float] = []
    step = run._step
    monkeypatch.setattr(run, "_step", lambda *args: (losses.append((found := step(*args))[0]), found)[1])
    list(run)
    return losses


def assert_equal_to_one_process(make, monkeypatch) -> None:
    """A training in both processes takes the steps of one in this process."""
    together = make()
    found = losses_of(together, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(parallel, "current", lambda: None)
        alone = make()
        expected = losses_of(alone, monkeypatch)
    assert len(found) == len(expected) > 1
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)
    for name, value in alone.upper.state_dict().items():
        torch.testing.assert_close(together.upper.state_dict()[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("loss", ["cross-entropy", "weighted", "focal", "own"])
def test_the_loss_is_that_of_the_whole_batch(loss, group, fp32, monkeypatch):
    known = {"weighted": loss_of(classification, weight=WEIGHTS), "own": loss_of(classification, own_loss)}
    chosen = known.get(loss) or loss_of(classification, loss)
    assert_equal_to_one_process(lambda: training(machine=fp32, phase=ONE, loss=chosen), monkeypatch)


@pytest.mark.parametrize(
    "changed",
    [
        {"batchnorm": "updated"},
        {"batchnorm": "updated", "batch_size": 7},  # the last batch has two images
        {"mixup": 0.4},
        {"mixup": 0.4, "batchnorm": "updated", "batch_size": 29},  # of an odd number, and one image joins it
        {"optimizer": "sgd", "clip": 0.1, "freeze": ("block2.norm*",)},
    ],
    ids=lambda changed: "-".join(map(str, changed.values())),
)
def test_phases_of_all_kinds(changed, group, fp32, monkeypatch):
    phase = replace(ONE, **{"epochs": 2, **changed})
    assert_equal_to_one_process(lambda: training("stem", machine=fp32, phase=phase), monkeypatch)


@pytest.mark.parametrize("task", [multilabel, segmentation], ids=lambda task: task.name)
def test_other_tasks(task, group, fp32, monkeypatch):
    assert_equal_to_one_process(lambda: of_task(task, fp32, phase=ONE), monkeypatch)


@pytest.fixture
def sent(monkeypatch) -> list[int]:
    """The kinds of the messages to the other process."""
    kinds: list[int] = []
    monkeypatch.setattr(parallel, "send", lambda *args, **kw: (kinds.append(args[1]), distributed.send(*args, **kw))[1])
    return kinds


@pytest.mark.parametrize("task", [classification, multilabel], ids=lambda task: task.name)
@pytest.mark.parametrize("least", [2, 5])
def test_validation_is_shared_and_its_outputs_are_those_of_one_process(task, least, group, fp32, sent, monkeypatch):
    """Messages of 4 or 10 images; the last one of 12 has fewer than the others, but not fewer than processes."""
    monkeypatch.setattr("frostline.training.training.BATCH", least)
    run = of_task(task, fp32, phase=replace(PHASE, batchnorm="updated"))
    (*_, last) = run
    assert sent.count(distributed.JUDGE) == run.phase.epochs * -(-12 // (2 * least))
    alone, loss = predict_all(run.upper, run.valid, task, run.monitor)
    assert last.valid_loss == pytest.approx(loss, rel=1e-5)
    assert last.valid == pytest.approx(task.measure(alone), rel=1e-4, abs=1e-6)
    torch.testing.assert_close(run.latest.logits, alone.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("why", ["rows", "maps"])
def test_what_cannot_be_shared_of_validation_is_judged_by_rank_0(why, group, fp32, sent):
    run = of_task(segmentation if why == "maps" else classification, fp32, phase=ONE)
    if why == "rows":
        run.valid = replace(run.valid, fetch=training(machine=fp32, keep=False).valid.fetch)
    (epoch,) = run
    assert distributed.STEPS in sent
    assert distributed.JUDGE not in sent
    expected = predict_all(run.upper, run.valid, run.task, run.monitor)[1]
    assert epoch.valid_loss == pytest.approx(expected, rel=1e-5)


class Averaging(nn.Module):
    """Remembers an average of what it has seen, which differs between the processes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.average.lerp_(x.mean(), 0.5)
        return x + self.average


def test_validation_is_of_the_network_that_is_kept(group, fp32, sent):
    run = training(machine=fp32, phase=ONE)
    run.stepper.computed = run.computed = nn.Sequential(run.computed, Averaging())
    (epoch,) = run
    assert distributed.JUDGE in sent
    expected = predict_all(run.computed, run.valid, loss=run.monitor)[1]
    assert float(run.computed[1].average) != 0
    assert epoch.valid_loss == pytest.approx(expected, rel=1e-5)


def test_weights_of_ones_own_loop_are_judged_by_this_process(group, fp32, sent):
    run = training(machine=fp32, phase=replace(PHASE, epochs=2))
    found = []
    for epoch in run:
        before = {name: value.clone() for name, value in run.upper.state_dict().items()}
        run.upper.load_state_dict({name: value * 0.5 for name, value in before.items()})
        shared = sent.count(distributed.JUDGE)
        found.append(run.evaluate()[1])
        assert found[-1] == pytest.approx(predict_all(run.upper, run.valid, loss=run.monitor)[1], rel=1e-5)
        assert found[-1] != pytest.approx(epoch.valid_loss, rel=1e-3)
        assert sent.count(distributed.JUDGE) == shared
        run.upper.load_state_dict(before)
    assert len(found) == 2


def test_a_head_may_be_solved_within_a_training(group, fp32, monkeypatch):
    monkeypatch.setattr(summing, "MANY", 100)
    rows, alone = held(count=200), training("stem", machine=fp32, phase=PHASE)
    with monkeypatch.context() as patch:
        patch.setattr(parallel, "current", lambda: None)
        patch.setattr(summing, "current", lambda: None)
        expected = [epoch.valid_loss for epoch in without_dropout(alone)], solve(rows, 3).bias
    run, found, biases = without_dropout(training("stem", machine=fp32, phase=PHASE)), [], []
    for epoch in run:
        found.append(epoch.valid_loss)
        biases.append(solve(rows, 3).bias)
    assert found == pytest.approx(expected[0], rel=1e-3)
    for bias in biases:
        torch.testing.assert_close(bias, expected[1], rtol=1e-4, atol=1e-5)


def test_a_batch_of_fewer_images_than_processes_is_computed_by_each(group, fp32, monkeypatch):
    phase = replace(ONE, batch_size=1, epochs=1, batchnorm="frozen")
    images = draw_images(5), draw_images(6, seed=1)
    assert_equal_to_one_process(lambda: training(machine=fp32, phase=phase, images=images), monkeypatch)


def test_dropout_draws_other_numbers_in_each_process_and_the_same_ones_again(group, fp32):
    def weights() -> dict[str, Tensor]:
        run = training("stem", machine=fp32, phase=ONE)
        list(run)
        return run.upper.state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_training_that_goes_on_elsewhere_ends_the_same(group, fp32, monkeypatch):
    """Some steps in two processes, the others in one, and the other way round."""

    def figures(first: bool, then: bool) -> list[float]:
        run = training(machine=fp32, phase=replace(PHASE, batchnorm="updated"))
        run.upper.drop.p = run.upper.block2.drop.p = 0.0
        epochs = []
        for number, many in enumerate((first, then)):
            with monkeypatch.context() as patch:
                if not many:
                    patch.setattr(parallel, "current", lambda: None)
                for taken, reached in enumerate(run.steps()):
                    epochs += [reached] if reached else []
                    if number == 0 and taken == 5:
                        break
        return [epoch.train_loss for epoch in epochs] + [epoch.valid_loss for epoch in epochs]

    alone = figures(False, False)
    assert len(alone) == 6
    assert figures(True, False) == pytest.approx(alone, rel=1e-4)
    assert figures(False, True) == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("what", ["loss", "rows"])
def test_what_cannot_be_sent_trains_in_one_process(what, group, fp32, monkeypatch):
    own = {"loss": lambda *both: functional.cross_entropy(*both)} if what == "loss" else {}
    run = training(machine=fp32, phase=ONE, keep=what != "rows", **own)
    said: list[str] = []
    monkeypatch.setattr("frostline.training.parallel.terminal.say", said.append)
    assert len(list(run)) == 1
    assert len(said) == 1
    assert said[0].startswith("training in one process: its ")
    assert ("--no-cache" in said[0] and "--cache-budget" in said[0]) == (what == "rows")
    assert ("network or loss cannot be sent" in said[0]) == (what == "loss")
