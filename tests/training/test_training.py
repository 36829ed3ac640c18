"""Laws 2, 3 and 6: what moves and what does not, that the store changes neither, nor does an interruption."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import frostline
from conftest import assert_same_state, draw_images, state_of
from frostline.data.images import Images
from frostline.errors import DivergedError, UsageError, WeightsError
from frostline.machine import find_machine
from frostline.plan import Phase
from frostline.store.shards import Cache
from frostline.training.judging import predict_all
from frostline.training.optimizers import OptimizerState
from frostline.training.training import Training
from trainings import (
    OPTIMIZERS,
    PHASE,
    STEP,
    classification,
    figures,
    moved,
    multilabel,
    of_task,
    rows_of,
    segmentation,
    training,
)


@pytest.mark.parametrize("frostline", ["stem", "block1", "block2", "head"])
def test_D19_stored_equals_recomputed(frostline, tmp_path, fp32):
    stored = training(frostline, machine=fp32, cache=Cache(tmp_path))
    plain = training(frostline, machine=fp32, keep=False)
    assert (stored.train.filled.kept, plain.train.filled.kept) == ("stored", "recomputed")
    for with_store, without in zip(figures(stored), figures(plain), strict=True):
        assert with_store == pytest.approx(without, rel=1e-4, abs=1e-5)
    for name, value in plain.upper.state_dict().items():
        torch.testing.assert_close(stored.upper.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_the_seed_decides_everything(fp32):
    assert figures(training(machine=fp32, seed=5)) == figures(training(machine=fp32, seed=5))
    assert figures(training(machine=fp32, seed=5)) != figures(training(machine=fp32, seed=6))


def test_training_does_not_touch_the_global_random_state(fp32):
    before = torch.get_rng_state()
    list(training(machine=fp32))
    assert torch.equal(before, torch.get_rng_state())


def test_training_on_the_cpu_touches_no_accelerator(fp32, monkeypatch):
    """Of many accelerators none is initialised or seeded: there may be other people's work on them."""

    def touched(*_: object) -> None:
        raise AssertionError("an accelerator was touched")

    run = training(machine=fp32)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    for name in ("get_rng_state", "set_rng_state", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, touched)
    assert len(list(run)) == 3


@pytest.mark.parametrize("count", [30, 7])
def test_training_images_are_shuffled_anew_in_every_epoch(count, fp32):
    images = draw_images(count), draw_images(12, seed=1)
    run = training(machine=fp32, images=images, phase=replace(PHASE, views=1))
    fetched = rows_of(run)
    orders = []
    for _ in run:
        orders.append(tuple((torch.cat(fetched) // 2).tolist()))
        fetched.clear()
    assert [sorted(order) for order in orders] == [list(range(count))] * 3
    assert tuple(range(count)) not in orders
    assert len(set(orders)) == 3


@pytest.mark.parametrize("batchnorm", ["frozen", "updated"])
def test_below_the_frostline_nothing_moves_and_above_it_all_does(batchnorm, fp32):
    run = training(machine=fp32, phase=replace(PHASE, batchnorm=batchnorm))
    frozen, trained = state_of(run.lower), state_of(run.upper)
    list(run)
    assert_same_state(frozen, run.lower)
    for name, value in run.upper.state_dict().items():
        statistics = "running" in name or "num_batches" in name
        assert torch.equal(trained[name], value) == (statistics and batchnorm == "frozen"), name


def test_what_a_phase_freezes_above_the_frostline_is_not_held_and_does_not_move(fp32):
    run = training("block1", machine=fp32, phase=replace(PHASE, frostline="block1", freeze=("block2.conv*",)))
    frozen = {name: value.clone() for name, value in run.upper.named_parameters() if "block2.conv" in name}
    assert len(frozen) == 2
    names = {id(value): name for name, value in run.upper.named_parameters()}
    held = {names[id(p)] for group in run.optimizer.param_groups for p in group["params"]}
    assert held == set(names.values()) - set(frozen)
    list(run)
    for name, value in frozen.items():
        assert torch.equal(run.upper.get_parameter(name), value)


def test_mixup_of_nothing_changes_nothing(fp32):
    plain, without = training(machine=fp32), training(machine=fp32, phase=replace(PHASE, mixup=0.0))
    mixed = training(machine=fp32, phase=replace(PHASE, mixup=0.4))
    assert figures(plain) == figures(without) != figures(mixed)


def test_mixup_is_decided_by_the_seed(fp32):
    def mixed(seed: int) -> list[tuple[float, ...]]:
        return figures(training(machine=fp32, phase=replace(PHASE, mixup=0.4), seed=seed))

    assert mixed(5) == mixed(5) != mixed(6)


def test_mixup_mixes_the_activations_of_a_batch_among_each_other(fp32):
    """Each with one other, all in one proportion: the mean of the batch stays, and so does what the targets add up."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def own(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if logits.requires_grad:  # not those that the validation images are judged by
            seen.append((logits, targets))
        return logits.sum() * 0 + 1

    run = training(machine=fp32, phase=replace(PHASE, epochs=1, mixup=1.0), loss=own)
    fetch, asked, inputs = run.train.fetch, rows_of(run), []
    run.computed.register_forward_pre_hook(lambda _, x: inputs.append(x[0]) if run.computed.training else None)
    row = next(iter(run))
    assert row.train_loss == pytest.approx(1)  # the shares of both targets are one
    assert len(inputs) == len(asked) == len(seen) / 2
    for mixed, rows, one, other in zip(inputs, asked, seen[::2], seen[1::2], strict=True):
        stored = fetch(rows)
        assert not torch.allclose(mixed, stored)
        torch.testing.assert_close(mixed.mean(0), stored.mean(0), rtol=1e-4, atol=1e-5)
        assert one[0] is other[0]
        assert torch.equal(one[1], run.train.targets(rows))
        assert sorted(other[1].tolist()) == sorted(one[1].tolist())
    assert any(not torch.equal(one[1], other[1]) for one, other in zip(seen[::2], seen[1::2], strict=True))


@pytest.mark.parametrize("clip", [1e-3, 1e-1])
def test_clipping_bounds_the_gradients_of_a_step(clip, fp32):
    """With SGD, a rate of one and one step, the weights move by the gradients."""
    free = training(machine=fp32, phase=replace(STEP, schedule="constant"))
    start = state_of(free.upper)
    next(iter(free))
    assert moved(start, free) > 0.2
    clipped = training(machine=fp32, phase=replace(STEP, schedule="constant", clip=clip))
    next(iter(clipped))
    assert moved(start, clipped) == pytest.approx(clip, rel=1e-2)
    loose = training(machine=fp32, phase=replace(STEP, schedule="constant", clip=1e6))
    next(iter(loose))
    assert moved(start, loose) == pytest.approx(moved(start, free), rel=1e-5)


def rare(count: int = 40) -> Images:
    """One of ten images is of the second class, and none of the third."""
    images = draw_images(count, 2)
    return Images(images.pictures, (np.arange(count) % 10 == 0).astype(np.int64), images.names)


@pytest.mark.parametrize("balanced", [True, False])
def test_balanced_drawing_shows_every_class_equally_often(balanced, fp32):
    phase = Phase("head", epochs=20, lr=1e-4, batch_size=8)
    run = training("head", machine=fp32, phase=phase, images=(rare(), rare(10)), balanced=balanced)
    asked = rows_of(run)
    list(run)
    shown = run.train.targets(torch.cat(asked)).float()
    assert len(shown) == 20 * 40
    assert float(shown.mean()) == pytest.approx(0.5 if balanced else 0.1, abs=0.08 if balanced else 1e-6)
    assert {int(row) // 2 for row in torch.cat(asked)} == set(range(40))


def test_of_several_labels_the_rarest_decides_how_often_an_image_is_drawn(fp32):
    labels = np.zeros((40, 3), bool)
    labels[:30, 0], labels[:4, 1] = True, True  # 4 with both, 26 with the common one, 10 with none
    images = Images(draw_images(40).pictures, labels, [str(i) for i in range(40)])
    phase = Phase("head", epochs=20, lr=1e-4, batch_size=8)
    run = training("head", machine=fp32, phase=phase, images=(images, images), task=multilabel, balanced=True)
    asked = rows_of(run)
    list(run)
    counts = np.bincount((torch.cat(asked) // 2).numpy(), minlength=40)
    chances = np.repeat([1 / 4, 1 / 30, 1 / 10], [4, 26, 10])
    shares = [counts[:4].sum() / 800, counts[4:30].sum() / 800, counts[30:].sum() / 800]
    expected = [chances[:4].sum(), chances[4:30].sum(), chances[30:].sum()] / chances.sum()
    assert shares == pytest.approx(expected.tolist(), abs=0.06)


def test_of_several_labels_no_image_needs_to_be_without(fp32):
    images = Images(draw_images(6).pictures, np.ones((6, 3), bool), [str(i) for i in range(6)])
    run = training("head", machine=fp32, phase=PHASE, images=(images, images), task=multilabel, balanced=True)
    assert next(iter(run)).epoch == 1


def test_pixels_cannot_be_balanced_by_drawing(fp32):
    with pytest.raises(UsageError, match="use class_weights='balanced'"):
        of_task(segmentation, fp32, balanced=True)


def test_the_best_epoch_is_restored(fp32):
    run = training(machine=fp32)
    rows = list(run)
    run.restore_best()
    losses = [run.initial["loss"], *[r.valid_loss for r in rows]]
    assert run.best == min(losses)
    assert run.evaluate()[1] == pytest.approx(min(losses), rel=1e-5)


def test_the_monitor_decides_which_epoch_is_best(fp32):
    predicted = iter([5.0, 4.0, 1.0, 3.0, 2.0])
    run = training(machine=fp32, phase=replace(PHASE, epochs=4), monitor=lambda *_: torch.tensor(next(predicted)))
    rows, states, epochs_without_improvement = [], [], []
    for row in run:
        rows.append(row)
        states.append(state_of(run.upper))
        epochs_without_improvement.append(run.epochs_without_improvement)
    assert [row.valid_loss for row in rows] == [4.0, 1.0, 3.0, 2.0]
    assert (run.best, epochs_without_improvement) == (1.0, [0, 0, 1, 2])
    run.restore_best()
    assert_same_state(states[1], run.upper)


def test_another_loss_may_decide_than_the_one_that_is_monitored(fp32):
    decides = iter([9.0, 3.0, 1.0, 2.0])
    run = training(machine=fp32, phase=replace(PHASE, epochs=3), judge=lambda _: next(decides))
    rows = list(run)
    assert [row.deciding_loss for row in rows] == [3.0, 1.0, 2.0]
    assert all(row.valid_loss == pytest.approx(row.valid["loss"], rel=1e-5) for row in rows)
    run.restore_best()
    assert run.best == 1.0
    assert run.task.measure(run.tried)["loss"] == rows[1].valid["loss"]


@pytest.mark.parametrize("task", [classification, multilabel, segmentation], ids=lambda task: task.name)
def test_a_row_says_what_the_task_is_judged_by(task, fp32):
    run = of_task(task, fp32, monitor=lambda logits, targets: logits.sum() * 0 + 7)
    row = next(iter(run))
    measured = task.measure(predict_all(run.upper, run.valid, task)[0])
    assert row.valid == pytest.approx(measured)
    assert row.valid_accuracy == row.valid["accuracy"]
    assert row.valid_loss == 7 != row.valid["loss"]


@pytest.mark.parametrize("task", [classification, multilabel, segmentation], ids=lambda task: task.name)
@pytest.mark.parametrize("mixup", [0.0, 0.2])
def test_training_reduces_the_loss_of_every_task(task, mixup, fp32):
    run = of_task(task, fp32, phase=replace(PHASE, epochs=6, mixup=mixup))
    frozen, rows = state_of(run.lower), list(run)
    run.restore_best()
    measured, loss = run.evaluate()
    assert rows[-1].train_loss < rows[0].train_loss
    assert loss == run.best < 0.8 * run.initial["loss"]
    assert measured["accuracy"] > run.initial["accuracy"]
    assert_same_state(frozen, run.lower)


@pytest.mark.parametrize("task", [multilabel, segmentation], ids=lambda task: task.name)
@pytest.mark.parametrize("loss", ["focal", "dice", "cross-entropy"])
def test_training_reduces_the_loss_that_is_asked_for(task, loss, fp32):
    if loss not in task.losses:
        return
    function = task.losses[loss]
    run = of_task(task, fp32, loss=function, monitor=function, phase=replace(PHASE, epochs=6))
    start = run.best
    list(run)
    assert run.best < 0.8 * start


def test_your_own_loss_is_what_is_trained(fp32):
    def squares(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.mse_loss(logits, functional.one_hot(targets, 3).float())

    run = training(machine=fp32, loss=squares, monitor=squares, phase=replace(PHASE, epochs=6))
    rows = list(run)
    run.restore_best()
    ((x, targets),) = run.valid.batches()
    with torch.no_grad():
        assert float(squares(run.upper(x), targets)) == pytest.approx(run.best, rel=1e-5)
    assert rows[-1].train_loss < 0.5 * rows[0].train_loss


def test_a_phase_that_only_harms_is_undone(fp32):
    good = training(machine=fp32, phase=Phase("block2", epochs=8, lr=1e-2))
    list(good)
    good.restore_best()
    before = state_of(good.upper)
    harmful = Training(good.network, good.upper, good.train, good.valid, Phase("block2", epochs=2, lr=10.0))
    list(harmful)
    assert harmful.epochs_without_improvement == 2
    harmful.restore_best()
    assert_same_state(before, harmful.upper)


def test_stopping_early_is_break(fp32):
    run = training(machine=fp32, phase=Phase("block2", epochs=50, lr=1e-2))
    for row in run:
        if row.epoch == 2:
            break
    assert run.epoch == 2


def test_each_image_shows_its_views_in_turn(fp32):
    run = training(machine=fp32)
    asked = rows_of(run)
    list(run)
    rows = torch.cat(asked).view(3, 30)
    for epoch in rows:
        assert sorted((epoch // 2).tolist()) == list(range(30))
    assert set(rows[0].tolist()) == set(rows[2].tolist())
    assert not set(rows[0].tolist()) & set(rows[1].tolist())


@pytest.mark.filterwarnings("ignore:.*")
def test_a_loss_that_is_no_number_stops_at_once(fp32):
    run = training(machine=fp32, loss=lambda logits, _: logits.sum() * math.nan, monitor=functional.cross_entropy)
    before = state_of(run.upper)
    match = r"became nan in epoch 1 above 'block2' \(for (picture-\d+, ){4}picture-\d+ and 3 more\); try .* --lr 0\.001"
    with pytest.raises(DivergedError, match=match):
        list(run)
    assert_same_state(before, run.upper)


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_no_number_stops_before_it_enters_the_weights(clip, fp32):
    """The loss is finite; the gradient of a root at 0 is not."""
    calls: list[int] = []

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.extend([1] * logits.requires_grad)
        root = (logits * 0).sum().sqrt() if len(calls) == 3 and logits.requires_grad else 0
        return functional.cross_entropy(logits, targets) + root

    run = training(phase=replace(PHASE, clip=clip), machine=fp32, loss=loss, monitor=functional.cross_entropy)
    steps: list[dict[str, torch.Tensor]] = []
    real = run.optimizer.step
    run.optimizer.step = lambda: (real(), steps.append(state_of(run.upper)))
    match = r"gradient of the training loss became nan in epoch 1 above 'block2' \(for picture-.* and 3 more\)"
    with pytest.raises(DivergedError, match=match):
        list(run)
    assert len(steps) == 2
    assert_same_state(steps[-1], run.upper)
    assert all(bool(value.isfinite().all()) for value in run._best_weights.values())


def test_images_whose_outputs_are_no_numbers_are_named(fp32):
    run = training(machine=fp32)
    with torch.no_grad():
        next(p for p in run.upper.parameters() if p.ndim == 1).fill_(math.nan)
    with pytest.raises(DivergedError, match=r"loss .* is nan before any training \(for picture-0, .* more\)"):
        run.evaluate()


def validation(values) -> Any:
    """A loss that trains as usual and says of the validation images what the iterator gives."""

    def monitor(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.tensor(next(values))

    return monitor


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_validation_loss_that_is_no_number_stops_at_once(value, fp32):
    run = training(machine=fp32, monitor=validation(iter([2.0, 1.0, value])))
    epochs = iter(run)
    next(epochs)
    best = state_of(run.upper)
    match = rf"the validation loss became {value} in epoch 2 above 'block2'; try .* --lr 0\.001"
    with pytest.raises(DivergedError, match=match) as raised:
        next(epochs)
    assert raised.value.exit_code == 5
    assert run.best == 1.0
    run.restore_best()
    assert_same_state(best, run.upper)


def test_a_deciding_loss_that_is_no_number_stops_too(fp32):
    decides = iter([2.0, 1.0, math.inf])
    run = training(machine=fp32, judge=lambda _: next(decides))
    with pytest.raises(DivergedError, match="the validation figure that decides became inf in epoch 2"):
        list(run)


def test_a_validation_loss_that_is_no_number_before_training_is_told(fp32):
    with pytest.raises(DivergedError, match="validation loss above 'block2' is nan before any training; .* fp32"):
        training(machine=fp32, monitor=validation(iter([math.nan])))


@pytest.mark.usefixtures("no_pictures")
def test_fit_ends_where_a_validation_loss_is_no_number(stripes, small, tmp_path):
    """The figures of one epoch would compare with nothing: no phase may be undone, or kept, because of them."""

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        factor = 1.0 if logits.requires_grad or len(calls) < 3 else math.nan
        calls.extend([1] * (not logits.requires_grad))
        return factor * functional.cross_entropy(logits, targets)

    calls: list[int] = []
    options = {"backbone": small, "plan": [PHASE], "precision": "fp32", "quiet": True, "out": tmp_path / "run"}
    with pytest.raises(DivergedError, match="the validation loss became nan in epoch 2"):
        frostline.fit(stripes, loss=loss, **options)
    assert (tmp_path / "run" / "history.csv").read_text().count("\n") == 3


def assert_same_optimizer(one: OptimizerState, other: OptimizerState) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert values.keys() == other[name].keys()
        assert all(torch.equal(value, other[name][slot]) for slot, value in values.items()), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("best", [0, 1, 2])
def test_what_is_restored_is_the_optimizer_of_the_best_epoch_too(best, optimizer, fp32):
    """Momentum that bad epochs gathered would drive the next phase where they went."""
    losses = [3.0] * 4
    losses[best] = 1.0
    phase = replace(PHASE, optimizer=optimizer)
    run = training(machine=fp32, phase=phase, monitor=validation(iter(losses)))
    states = [run.optimizer_state(), *(run.optimizer_state() for _ in run)]
    run.restore_best()
    assert_same_optimizer(run.optimizer_state(), states[best])
    assert bool(states[best]) == (best > 0)


RESUMED = [
    PHASE,
    replace(PHASE, optimizer="sgd", schedule="step"),
    replace(PHASE, frostline="stem", mixup=0.4, clip=0.5, batch_size=7),
]


@pytest.mark.parametrize("phase", RESUMED, ids=["adamw", "sgd", "mixup"])
@pytest.mark.parametrize("after", [0, 5, *(pytest.param(after, marks=pytest.mark.long) for after in (1, 4, 9, 12))])
@pytest.mark.parametrize("balanced", [False, True])
def test_resumed_equals_uninterrupted(after, phase, balanced, tmp_path, fp32):
    """New objects, and only what a file holds: the same records, weights and optimizer, bit for bit.

    after: steps, and records of epochs between them.
    """
    phase = replace(phase, epochs=4)

    def new(seed: int = 3) -> Training:
        return training(phase.frostline, machine=fp32, phase=phase, seed=seed, balanced=balanced)

    whole = new()
    expected = figures(whole)
    whole.restore_best()
    first = new()
    steps = first.steps()
    done = sum(next(steps) is not None for _ in range(after))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    list(steps)  # what is done after the state was taken does not change it
    second = new()
    with torch.no_grad():
        for value in second.upper.parameters():
            value += 1.0  # the state alone decides
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert figures(second) == expected[done:]
    assert (second.best, second.initial) == (whole.best, whole.initial)
    assert torch.equal(second.start.logits, whole.start.logits)
    assert torch.equal(second.tried.logits, whole.tried.logits)
    assert second.epochs_without_improvement == whole.epochs_without_improvement
    second.restore_best()
    assert_same_state(state_of(whole.upper), second.upper)
    assert_same_optimizer(second.optimizer_state(), whole.optimizer_state())


@given(st.integers(0, 20), st.integers(0, 20))
@settings(max_examples=5, deadline=None)
def test_a_state_may_be_taken_and_loaded_any_number_of_times(first, second):
    """Even with other random numbers drawn, and the validation measured, in between."""
    machine = find_machine("cpu", "fp32", 2)
    phase = Phase("head", epochs=4, lr=1e-2, batch_size=8, views=2)
    expected = figures(training("head", machine=machine, phase=phase))
    run = training("head", machine=machine, phase=phase)
    done = taken = 0
    for stop in sorted({first, second}):
        for _, reached in zip(range(stop - taken), run.steps(), strict=False):
            done += reached is not None
            torch.rand(3)
            run.evaluate()
        taken = stop
        state = run.state_dict()
        run = training("head", machine=machine, phase=phase)
        run.load_state_dict(state)
    assert figures(run) == expected[done:]


def test_the_state_of_another_network_or_optimizer_is_refused(fp32):
    state = training("block2", machine=fp32).state_dict()
    other = training("head", machine=fp32, phase=Phase("head", epochs=2))
    with pytest.raises(WeightsError, match="tensors that are not the 2 above 'head'; resume with the backbone"):
        other.load_state_dict(state)
    other = training(machine=fp32, phase=replace(PHASE, optimizer="sgd"))
    before = state_of(other.upper)
    with pytest.raises(
        WeightsError, match="of the optimizer adamw, but the phase trains with sgd; resume with the plan"
    ):
        other.load_state_dict(state)
    assert_same_state(before, other.upper)


def test_D23_a_batch_of_one_is_no_trouble(fp32):
    run = training(machine=fp32, phase=Phase("block2", epochs=1, batch_size=29, batchnorm="updated"))
    assert next(iter(run)).train_loss > 0
    assert run.network.model.block2.norm1.num_batches_tracked == 1
