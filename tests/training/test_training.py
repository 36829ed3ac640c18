"""Laws 2, 3 and 5: what trains, what does not, and that the store changes neither."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from architectures import built
from conftest import SIZE, assert_same_state, draw_images, small_model, state_of
from frostline.backbones import Backbone
from frostline.data.images import Images
from frostline.data.masks import Masks
from frostline.data.views import Views
from frostline.errors import DivergedError, UsageError
from frostline.network.network import Network
from frostline.plan import SCHEDULES, Phase
from frostline.preprocessing import Preprocessing
from frostline.store.activations import activations
from frostline.store.shards import Cache
from frostline.tasks import NAMES, Task, task_of
from frostline.training.judging import predict_all
from frostline.training.optimizers import lr_factor, optimizer_of, parameter_groups
from frostline.training.training import Training

HOW = Preprocessing(size=SIZE, resize=36)
classification, multilabel, segmentation = map(task_of, NAMES)
PHASE = Phase("block2", epochs=3, lr=1e-2, batch_size=8, views=2)
STEP = Phase("block2", epochs=1, lr=1.0, lr_decay=1.0, batch_size=30, optimizer="sgd", momentum=0.0, weight_decay=0.0)
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def training(
    frostline: str = "block2",
    *,
    machine,
    keep: bool = True,
    cache: Cache | None = None,
    images: tuple[Images, Images] | None = None,
    task: Task = classification,
    phase: Phase = PHASE,
    **options: Any,
) -> Training:
    name = task.name
    network = Backbone("small", small_model(), HOW).network(3, task=name)
    shown, judged = images or (draw_images(30), draw_images(12, seed=1))
    lower, upper = network.cut(frostline, phase.freeze)
    train = activations(lower, shown, Views(2), machine=machine, cache=cache, keep=keep)
    valid = activations(lower, judged, machine=machine, cache=cache, keep=keep)
    result = Training(network, upper, train, valid, phase, task=task, **options)
    result.network, result.lower = network, lower  # for the tests
    return result


def labelled(count: int, seed: int = 0) -> Images:
    """Stripes with two labels, or one, or none."""
    images = draw_images(count, seed=seed)
    labels = np.array([[True, True, False], [False, True, False], [False, False, False]])[images.targets]
    return Images(images.pictures, labels, images.names)


def masked(count: int, seed: int = 0) -> Images:
    """A bright square somewhere, green or blue, and its mask; the pixels of the rim count for nothing."""
    chance = np.random.default_rng(seed)
    pictures, masks = chance.integers(0, 90, (count, 40, 40, 3), np.uint8), np.zeros((count, 40, 40), np.uint8)
    for i, (top, left) in enumerate(chance.integers(2, 20, (count, 2))):
        pictures[i, top : top + 18, left : left + 18, 1 + i % 2] += 140
        masks[i, top : top + 18, left : left + 18] = 1 + i % 2
    masks[:, :1] = 255
    return Images(list(pictures), Masks(list(masks), np.arange(256, dtype=np.uint8)), [str(i) for i in range(count)])


def of_task(task: Task, machine, **options) -> Training:
    images = {classification: None, multilabel: (labelled(30), labelled(12, 1)), segmentation: (masked(30), masked(12))}
    return training(machine=machine, images=images[task], task=task, **options)


def rows_of(run: Training) -> list[torch.Tensor]:
    """The rows of every batch that is fetched from now on."""
    asked: list[torch.Tensor] = []
    fetch = run.train.fetch
    run.train = replace(run.train, fetch=lambda rows: (asked.append(rows), fetch(rows))[1])
    return asked


def rates_of(run: Training) -> list[float]:
    """The learning rate of every step from now on, of the head."""
    rates: list[float] = []
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    return rates


def moved(before: dict[str, torch.Tensor], run: Training) -> float:
    """How far all weights moved, together."""
    after = {name: value.detach() for name, value in run.upper.named_parameters()}
    return float(torch.stack([(after[name] - before[name]).norm() for name in after]).norm())


def figures(rows) -> list[tuple[float, ...]]:
    return [(r.train_loss, r.train_accuracy, r.valid_loss, r.valid_accuracy, r.lr) for r in rows]


@pytest.mark.parametrize("frostline", ["stem", "block1", "block2", "head"])
def test_stored_equals_recomputed(frostline, tmp_path, fp32):
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


@pytest.mark.parametrize("freeze_batchnorm_statistics", [True, False])
def test_below_the_frostline_nothing_moves_and_above_it_all_does(freeze_batchnorm_statistics, fp32):
    run = training(machine=fp32, freeze_batchnorm_statistics=freeze_batchnorm_statistics)
    frozen, trained = state_of(run.lower), state_of(run.upper)
    list(run)
    assert_same_state(frozen, run.lower)
    for name, value in run.upper.state_dict().items():
        statistics = "running" in name or "num_batches" in name
        assert torch.equal(trained[name], value) == (statistics and freeze_batchnorm_statistics), name


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:convnextv2_atto", "timm:vit_tiny_patch16_224"])
def test_the_optimizer_holds_exactly_what_trains(name):
    model, preprocessing = built(name)
    network = Network(model, preprocessing)
    for stage in network.stages:
        _, upper = network.cut(stage.name)
        for kind in OPTIMIZERS:
            optimizer = optimizer_of(network, Phase(stage.name, optimizer=kind))
            held = [p for group in optimizer.param_groups for p in group["params"]]
            assert len(held) == len({id(p) for p in held})
            assert {id(p) for p in held} == {id(p) for p in upper.parameters()}
            assert {id(p) for p in held} == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_phase_says_which_optimizer_and_how(kind):
    network = Network(small_model(), HOW)
    network.cut("block2")
    optimizer = optimizer_of(network, Phase("block2", optimizer=kind, lr=0.02, momentum=0.7, weight_decay=0.03))
    assert type(optimizer) is OPTIMIZERS[kind]
    assert max(group["lr"] for group in optimizer.param_groups) == 0.02
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.03}
    assert {group.get("momentum") for group in optimizer.param_groups} == ({0.7} if kind == "sgd" else {None})


def test_momentum_is_kept_from_step_to_step(fp32):
    """Of a loss whose gradient is always one, two steps move a bias by 1 and by 1 + momentum."""
    phase = replace(STEP, lr=0.01, batch_size=15, momentum=0.5, schedule="constant")
    run = training(machine=fp32, phase=phase, loss=lambda logits, _: logits.sum(1).mean())
    before = run.network.model.head.bias.detach().clone()
    list(run)
    torch.testing.assert_close(run.network.model.head.bias.detach(), before - 0.01 * (1 + 1.5))


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


def test_an_optimizer_with_nothing_to_train_is_refused(fp32):
    run = training(machine=fp32)
    run.network.model.requires_grad_(False)
    with pytest.raises(UsageError, match="nothing trains above 'block2': everything there is frozen"):
        Training(run.network, run.upper, run.train, run.valid, PHASE)


def test_learning_rates_fall_towards_the_image():
    network = Network(small_model(), HOW)
    network.cut("stem")
    rates = {group["stage"]: group["lr"] for group in parameter_groups(network, 1.0, 0.5)}
    assert rates == {"head": 1.0, "block2": 0.5, "block1": 0.25, "stem": 0.125}


def test_norms_and_biases_do_not_decay():
    network = Network(small_model(), HOW)
    network.cut("stem")
    for group in parameter_groups(network, 1.0, weight_decay=0.1):
        assert all((p.ndim > 1) == (group["weight_decay"] == 0.1) for p in group["params"])


def test_optimizer_state_is_carried_when_the_frostline_sinks(fp32):
    first = training("head", machine=fp32, phase=Phase("head", epochs=2, lr=1e-2))
    list(first)
    network = first.network
    lower, upper = network.cut("block2")
    inputs = activations(lower, draw_images(30), machine=fp32)
    second = Training(network, upper, inputs, inputs, PHASE, previous_optimizer=first.optimizer_state())
    head = network.model.head.weight
    assert second.optimizer.state[head]["step"] == first.optimizer.state[head]["step"] > 0
    assert torch.equal(second.optimizer.state[head]["exp_avg"], first.optimizer.state[head]["exp_avg"])
    assert network.model.block2.conv1.weight not in second.optimizer.state


@pytest.mark.parametrize("before", OPTIMIZERS)
@pytest.mark.parametrize("after", OPTIMIZERS)
def test_optimizer_state_is_carried_between_the_same_kind_only(before, after, fp32):
    first = training(machine=fp32, phase=replace(PHASE, epochs=1, optimizer=before))
    list(first)
    phase = replace(PHASE, epochs=1, optimizer=after)
    second = Training(
        first.network, first.upper, first.train, first.valid, phase, previous_optimizer=first.optimizer_state()
    )
    assert bool(second.optimizer.state) == ((before == "sgd") == (after == "sgd"))
    assert next(iter(second)).train_loss > 0


@given(st.sampled_from(SCHEDULES), st.floats(0, 1))
def test_a_schedule_never_goes_above_the_highest_rate(schedule, progress):
    assert 0 <= lr_factor(schedule, progress) <= 1


def test_a_constant_rate_stays(fp32):
    run = training(machine=fp32, phase=replace(PHASE, schedule="constant"))
    rates = rates_of(run)
    assert [row.lr for row in run] == [0.01] * 3
    assert rates == [0.01] * 12


@pytest.mark.parametrize("epochs", [3, 6, 9, 30])
def test_steps_are_a_tenth_after_each_third_of_the_epochs(epochs, fp32):
    run = training("head", machine=fp32, phase=Phase("head", epochs=epochs, lr=1e-2, batch_size=8, schedule="step"))
    rates = np.array([row.lr for row in run])
    warm = -(-epochs // 10)
    assert (np.diff(rates[:warm]) > 0).all()
    assert rates[warm:] == pytest.approx(1e-2 * np.repeat([1, 0.1, 0.01], epochs // 3)[warm:])


def test_cosine_rises_for_a_tenth_and_falls_to_nearly_nothing(fp32):
    run = training("head", machine=fp32, phase=Phase("head", epochs=25, lr=1e-2, batch_size=8, schedule="cosine"))
    rates = rates_of(run)
    list(run)
    top = int(np.argmax(rates))
    assert len(rates) == 100
    assert 8 <= top <= 11
    assert rates[top] == pytest.approx(1e-2, rel=0.01)
    assert 0 < rates[0] < 2e-3
    assert (np.diff(rates[: top + 1]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()
    assert rates[55] == pytest.approx(5e-3, rel=0.05)
    assert 0 < rates[-1] < 1e-4


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_all_stages_follow_the_schedule_alike(schedule, fp32):
    run = training("stem", machine=fp32, phase=replace(PHASE, frostline="stem", schedule=schedule, epochs=2))
    for _ in run:
        lr = {group["stage"]: group["lr"] for group in run.optimizer.param_groups}
        assert [lr[name] / lr["head"] for name in ("block2", "block1", "stem")] == pytest.approx([0.5, 0.25, 0.125])


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


def test_the_judge_decides_which_epoch_is_best(fp32):
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


def test_answers_are_of_all_rows_in_evaluation_and_leave_the_mode_alone(fp32):
    run = training(machine=fp32)
    run.upper.train()
    answers, loss = predict_all(run.upper, run.train)
    assert run.upper.training
    assert len(answers) == 60
    assert loss == pytest.approx(float(functional.cross_entropy(answers.logits, answers.targets)), rel=1e-5)
    run.upper.eval()
    with torch.no_grad():
        torch.testing.assert_close(run.upper(run.train.fetch(torch.arange(60))), answers.logits)
    assert predict_all(run.upper, run.train, loss=lambda logits, _: logits.sum() * 0 + 2)[1] == 2


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
    run = training(machine=fp32, loss=lambda logits, _: logits.sum() * float("nan"))
    before = state_of(run.upper)
    with pytest.raises(DivergedError, match=r"became nan in epoch 1 above 'block2'; try .* --lr 0\.001"):
        list(run)
    assert_same_state(before, run.upper)


def test_a_batch_of_one_is_no_trouble(fp32):
    run = training(machine=fp32, phase=Phase("block2", epochs=1, batch_size=29), freeze_batchnorm_statistics=False)
    assert next(iter(run)).train_loss > 0
    assert run.network.model.block2.norm1.num_batches_tracked == 1
