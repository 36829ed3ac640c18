from __future__ import annotations

import re

import pytest
import torch

from frostline.errors import UsageError
from frostline.tasks import NAMES, Outputs, join, loss_of, losses, task_of

LOSSES = [(task, loss) for task in NAMES for loss in task_of(task).losses]
WEIGHT = torch.tensor([1.0, 2.0, 4.0])


def batch(task: str, count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    size = (5, 5) if task == "segmentation" else ()
    logits = torch.randn(count, 3, *size, generator=chance)
    targets = torch.randint(0, 3, (count, *size), generator=chance)
    return logits, torch.eye(3)[targets] if task == "multilabel" else targets


@pytest.mark.parametrize(("task", "loss"), LOSSES)
def test_every_loss_of_a_task_takes_what_the_task_has(task, loss):
    value = loss_of(task_of(task), loss)(*batch(task))
    assert value.ndim == 0
    assert value > 0


@pytest.mark.parametrize("task", NAMES)
def test_the_default_is_the_first(task):
    first = next(iter(task_of(task).losses.values()))
    assert torch.equal(loss_of(task_of(task))(*batch(task)), first(*batch(task)))


@pytest.mark.parametrize("task", NAMES)
def test_the_plain_loss_is_measured_whatever_is_trained(task):
    plain = {"classification": "cross-entropy", "multilabel": "bce", "segmentation": "cross-entropy"}[task]
    known = task_of(task)
    measured = known.measure(known.outputs(*batch(task)))["loss"]
    assert measured == pytest.approx(float(loss_of(known, plain)(*batch(task))), rel=1e-5)


@pytest.mark.parametrize("task", NAMES)
def test_every_task_reports_the_same_basics(task):
    known = task_of(task)
    outputs = known.outputs(*batch(task))
    metrics = known.metrics(outputs, ("a", "b", "c"))
    assert {"accuracy", "loss", "n", "interval", "per_class"} <= metrics.keys()
    assert metrics.items() >= known.measure(outputs).items()
    low, high = metrics["interval"]
    assert 0 <= low <= metrics["accuracy"] <= high <= 1
    assert set(metrics["per_class"]) == {"a", "b", "c"}
    records = known.predictions(["w", "x", "y", "z"], "test", outputs, ("a", "b", "c"))
    assert [len(record) for record in records] == [len(known.columns)] * 4


@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize("count", [None, 5])
def test_joined_outputs_are_those_of_one_batch(task, count):
    known, (logits, targets) = task_of(task), batch(task, 5)
    whole = known.outputs(logits, targets)
    parts = join([known.outputs(logits[rows], targets[rows]) for rows in ([0, 1], [2], [3, 4])], count)
    assert len(parts) == 5
    assert torch.equal(parts.logits, whole.logits)
    assert torch.equal(parts.targets, whole.targets)
    torch.testing.assert_close(parts.losses, whole.losses)


def test_no_outputs_are_joined_to_none():
    assert len(join([])) == len(join([], 0)) == 0


@pytest.mark.parametrize("task", NAMES)
def test_a_task_knows_its_name(task):
    assert task_of(task).name == task


@pytest.mark.parametrize("name", ["losses", "intervals", "Classification", ""])
def test_a_module_beside_the_tasks_is_no_task(name):
    with pytest.raises(UsageError, match="unknown task"):
        task_of(name)


def test_outputs_are_as_many_as_their_losses():
    assert len(Outputs(torch.zeros(3, 2), torch.zeros(3), torch.zeros(3))) == 3


def test_weights_and_smoothing_reach_the_loss():
    logits, targets = batch("classification")
    loss = loss_of(task_of("classification"), weight=WEIGHT, smoothing=0.1)
    assert torch.equal(loss(logits, targets), losses.cross_entropy(logits, targets, weight=WEIGHT, smoothing=0.1))


def test_your_own_function_is_used_as_it_is():
    def own(logits, targets):
        return logits.sum()

    logits, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert torch.equal(loss_of(task_of("classification"), own)(logits, targets), logits.sum())
    each = torch.nn.CrossEntropyLoss(reduction="none")
    with pytest.raises(UsageError, match=r"shape \(4,\); give the mean over the batch"):
        loss_of(task_of("classification"), each)(logits, targets)
    with pytest.raises(UsageError, match="your own loss takes no options; leave out class weights"):
        loss_of(task_of("classification"), own, weight=WEIGHT)
    with pytest.raises(UsageError, match="leave out class weights and label smoothing"):
        loss_of(task_of("classification"), own, weight=WEIGHT, smoothing=0.1)


def test_an_unknown_loss_names_the_nearest():
    with pytest.raises(UsageError, match="unknown loss 'cross_entropy'; nearest: cross-entropy"):
        loss_of(task_of("classification"), "cross_entropy")
    with pytest.raises(UsageError, match="loss 'dice' does not fit these labels"):
        loss_of(task_of("classification"), "dice")


@pytest.mark.parametrize("options", [{"weight": WEIGHT}, {"smoothing": 0.1}, {"weight": WEIGHT, "smoothing": 0.1}])
@pytest.mark.parametrize(("task", "loss"), LOSSES)
def test_an_option_is_taken_or_refused_with_a_loss_that_takes_it(task, loss, options):
    known = task_of(task)
    try:
        trained = loss_of(known, loss, **options)
    except UsageError as error:
        match = re.fullmatch(rf"the loss {re.escape(loss)} takes no .*; use (.*)", str(error))
        for other in match[1].split(" or "):
            assert other != loss
            loss_of(known, other, **options)
    else:
        assert not torch.equal(trained(*batch(task)), loss_of(known, loss)(*batch(task)))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, 1.5, float("nan")])
def test_smoothing_is_a_share(smoothing):
    with pytest.raises(UsageError, match=r"label smoothing is .*; it must be at least 0, below 1"):
        loss_of(task_of("classification"), smoothing=smoothing)
