"""Law 5: what the optimizer holds, how fast it learns, and its state by the names of parameters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from architectures import built
from conftest import draw_images, small_model
from frostline.errors import UsageError
from frostline.network.network import Network
from frostline.plan import SCHEDULES, Phase
from frostline.store.activations import computed_once
from frostline.training.optimizers import lr_factor, optimizer_of, parameter_groups
from frostline.training.training import Training
from trainings import HOW, OPTIMIZERS, PHASE, STEP, rates_of, training


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
    inputs = computed_once(lower, draw_images(30), machine=fp32)
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


def test_the_optimizer_goes_by_the_names_of_parameters(fp32):
    run = training(machine=fp32)
    list(run)
    names = {name for name, value in run.network.model.named_parameters() if value.requires_grad}
    state = run.optimizer_state()
    assert state.keys() == names
    weight = run.network.model.head.weight
    assert torch.equal(state["head.weight"]["exp_avg"], run.optimizer.state[weight]["exp_avg"])
