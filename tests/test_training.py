"""Laws 2, 3 and 5: what trains, what does not, and that the store changes neither."""

from __future__ import annotations

import pytest
import torch

from architectures import built
from conftest import SIZE, assert_same_state, draw_images, small_model, state_of
from frostline.activations import activations
from frostline.data.views import Views
from frostline.errors import DivergedError
from frostline.network import Network
from frostline.plan import Phase
from frostline.preprocessing import Preprocessing
from frostline.store import Cache
from frostline.training import Training, parameter_groups

HOW = Preprocessing(size=SIZE, resize=36)
PHASE = Phase("block2", epochs=3, lr=1e-2, batch_size=8, views=2)


def training(frostline: str = "block2", *, keep: bool = True, on, cache: Cache | None = None, **options) -> Training:
    network = Network(small_model(), HOW)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network.replace_head(3)
    lower, upper = network.cut(frostline)
    train = activations(lower, draw_images(30), Views(2), on=on, cache=cache, keep=keep)
    valid = activations(lower, draw_images(12, seed=1), on=on, cache=cache, keep=keep)
    phase = options.pop("phase", PHASE)
    result = Training(network, upper, train, valid, phase, **options)
    result.network, result.lower = network, lower  # for the tests
    return result


def figures(rows) -> list[tuple[float, ...]]:
    return [(r.train_loss, r.train_accuracy, r.valid_loss, r.valid_accuracy, r.lr) for r in rows]


@pytest.mark.parametrize("frostline", ["stem", "block1", "block2", "head"])
def test_stored_equals_recomputed(frostline, tmp_path, fp32):
    stored = training(frostline, on=fp32, cache=Cache(tmp_path))
    plain = training(frostline, on=fp32, keep=False)
    assert (stored.train.filled.kept, plain.train.filled.kept) == ("stored", "recomputed")
    for with_store, without in zip(figures(stored), figures(plain), strict=True):
        assert with_store == pytest.approx(without, rel=1e-4, abs=1e-5)
    for name, value in plain.upper.state_dict().items():
        torch.testing.assert_close(stored.upper.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_the_seed_decides_everything(fp32):
    assert figures(training(on=fp32, seed=5)) == figures(training(on=fp32, seed=5))
    assert figures(training(on=fp32, seed=5)) != figures(training(on=fp32, seed=6))


def test_training_does_not_touch_the_global_random_state(fp32):
    before = torch.get_rng_state()
    list(training(on=fp32))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("keep_statistics", [True, False])
def test_below_the_frostline_nothing_moves_and_above_it_all_does(keep_statistics, fp32):
    run = training(on=fp32, keep_statistics=keep_statistics)
    frozen, trained = state_of(run.lower), state_of(run.upper)
    list(run)
    assert_same_state(frozen, run.lower)
    for name, value in run.upper.state_dict().items():
        statistics = "running" in name or "num_batches" in name
        assert torch.equal(trained[name], value) == (statistics and keep_statistics), name


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:convnextv2_atto", "timm:vit_tiny_patch16_224"])
def test_the_optimizer_holds_exactly_what_trains(name):
    model, how = built(name)
    network = Network(model, how)
    for stage in network.stages:
        _, upper = network.cut(stage.name)
        held = [p for group in parameter_groups(network, 1e-3, 0.5) for p in group["params"]]
        assert len(held) == len({id(p) for p in held})
        assert {id(p) for p in held} == {id(p) for p in upper.parameters()}
        assert {id(p) for p in held} == {id(p) for p in model.parameters() if p.requires_grad}


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
    first = training("head", on=fp32, phase=Phase("head", epochs=2, lr=1e-2))
    list(first)
    network = first.network
    lower, upper = network.cut("block2")
    inputs = activations(lower, draw_images(30), on=fp32)
    second = Training(network, upper, inputs, inputs, PHASE, carried=first.optimizer.state)
    head = network.model.head.weight
    assert second.optimizer.state[head]["step"] == first.optimizer.state[head]["step"] > 0
    assert torch.equal(second.optimizer.state[head]["exp_avg"], first.optimizer.state[head]["exp_avg"])
    assert network.model.block2.conv1.weight not in second.optimizer.state


def test_the_best_epoch_is_restored(fp32):
    run = training(on=fp32)
    rows = list(run)
    run.restore_best()
    assert run.evaluate()["loss"] == pytest.approx(min([run.start["loss"], *[r.valid_loss for r in rows]]), rel=1e-5)


def test_a_phase_that_only_harms_is_undone(fp32):
    good = training(on=fp32, phase=Phase("block2", epochs=8, lr=1e-2))
    list(good)
    good.restore_best()
    before = state_of(good.upper)
    harmful = Training(good.network, good.upper, good.train, good.valid, Phase("block2", epochs=2, lr=10.0))
    list(harmful)
    assert harmful.stale == 2
    harmful.restore_best()
    assert_same_state(before, harmful.upper)


def test_stopping_early_is_break(fp32):
    run = training(on=fp32, phase=Phase("block2", epochs=50, lr=1e-2))
    for row in run:
        if row.epoch == 2:
            break
    assert run.epoch == 2


def test_each_image_shows_its_views_in_turn(fp32):
    run = training(on=fp32)
    asked: list[torch.Tensor] = []
    fetch = run.train.fetch
    object.__setattr__(run.train, "fetch", lambda rows: (asked.append(rows), fetch(rows))[1])
    list(run)
    rows = torch.cat(asked).view(3, 30)
    for epoch in rows:
        assert sorted((epoch // 2).tolist()) == list(range(30))
    assert set(rows[0].tolist()) == set(rows[2].tolist())
    assert not set(rows[0].tolist()) & set(rows[1].tolist())


@pytest.mark.filterwarnings("ignore:.*")
def test_a_loss_that_is_no_number_stops_at_once(fp32):
    run = training(on=fp32, loss=lambda logits, _: logits.sum() * float("nan"))
    before = state_of(run.upper)
    with pytest.raises(DivergedError, match=r"became nan in epoch 1 above 'block2'; try .* --lr 0\.001"):
        list(run)
    assert_same_state(before, run.upper)


def test_a_batch_of_one_is_no_trouble(fp32):
    run = training(on=fp32, phase=Phase("block2", epochs=1, batch_size=29), keep_statistics=False)
    assert next(iter(run)).train_loss > 0
    assert run.network.model.block2.norm1.num_batches_tracked == 1
