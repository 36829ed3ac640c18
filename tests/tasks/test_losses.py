"""Losses against torch's and torchvision's own, and what must hold of each of them."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from frostline.tasks import losses

WEIGHT = torch.tensor([0.5, 1.0, 3.0, 0.0])
NUMBERS = [losses.cross_entropy, losses.focal]
PIXELS = [*NUMBERS, losses.dice, losses.cross_entropy_dice]
LABELS = [losses.bce, losses.binary_focal]
WEIGHTED = [function for function in [*PIXELS, *LABELS] if "weight" in inspect.signature(function).parameters]
close = torch.testing.assert_close
sizes = st.sampled_from([(6,), (2, 5, 4)])
seeds = st.integers(0, 1000)


def name(function) -> str:
    return function.__name__


def numbers(size: tuple[int, ...] = (6,), seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of four classes, and class numbers, some of which count for nothing."""
    chance = torch.Generator().manual_seed(seed)
    logits = torch.randn(size[0], 4, *size[1:], generator=chance, requires_grad=True)
    targets = torch.randint(0, 4, size, generator=chance)
    targets.view(-1)[1::5] = -100
    return logits, targets


def labels(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, 4, generator=chance, requires_grad=True)
    return logits, (torch.rand(6, 4, generator=chance) > 0.6).float()


def of(function, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return labels(seed) if function in LABELS else numbers((2, 5, 4), seed)


@given(sizes, seeds, st.sampled_from([None, WEIGHT]), st.sampled_from([0.0, 0.1, 0.7]))
def test_cross_entropy_is_torchs(size, seed, weight, smoothing):
    logits, targets = numbers(size, seed)
    targets.flatten()[0] = 1
    close(
        losses.cross_entropy(logits, targets, weight=weight, smoothing=smoothing),
        functional.cross_entropy(logits, targets, weight, label_smoothing=smoothing),
    )


@given(sizes, seeds, st.sampled_from([None, WEIGHT]))
def test_focal_without_focus_is_cross_entropy(size, seed, weight):
    logits, targets = numbers(size, seed)
    targets.flatten()[0] = 1
    unfocused = losses.focal(logits, targets, weight=weight, gamma=0.0)
    close(unfocused, losses.cross_entropy(logits, targets, weight=weight))


def test_focal_of_two_classes_is_torchvisions():
    logits, targets = labels()
    pairs = torch.stack([-logits.flatten() / 2, logits.flatten() / 2], 1)
    expected = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=2.0, reduction="mean")
    close(losses.focal(pairs, targets.flatten().long()), expected)


@given(seeds, st.sampled_from([0.0, 0.5, 2.0, 5.0]))
def test_binary_focal_is_torchvisions(seed, gamma):
    logits, targets = labels(seed)
    expected = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=gamma, reduction="mean")
    close(losses.binary_focal(logits, targets, gamma=gamma), expected)


@given(seeds, st.sampled_from([None, WEIGHT]))
def test_bce_is_torchs(seed, weight):
    logits, targets = labels(seed)
    expected = torch.nn.BCEWithLogitsLoss(pos_weight=weight)(logits, targets)
    close(losses.bce(logits, targets, weight=weight), expected)


def test_smoothed_labels_are_nearer_to_one_half():
    logits = torch.tensor([[2.0, -1.0]])
    expected = functional.binary_cross_entropy_with_logits(logits, torch.tensor([[0.9, 0.1]]))
    close(losses.bce(logits, torch.tensor([[1.0, 0.0]]), smoothing=0.2), expected)


def test_dice_of_hard_answers_is_one_minus_the_f1_of_the_pixels():
    targets = torch.tensor([[[0, 0, 1], [1, 1, -100]]])
    predicted = torch.tensor([[[0, 1, 1], [1, 0, 1]]])
    logits = functional.one_hot(predicted, 3).movedim(-1, 1).float() * 1000
    f1 = {0: 2 * 1 / (2 + 2), 1: 2 * 2 / (3 + 3)}  # class 2 is nowhere
    close(losses.dice(logits, targets), torch.tensor(1 - (f1[0] + f1[1]) / 2))


@given(seeds)
def test_dice_lies_between_0_and_1(seed):
    logits, targets = numbers((2, 5, 4), seed)
    assert 0 <= losses.dice(logits, targets) <= 1
    right = functional.one_hot(targets.clamp(min=0), 4).movedim(-1, 1) * 100.0
    assert float(losses.dice(right, targets)) == pytest.approx(0, abs=1e-5)
    assert float(losses.dice(-right, targets)) > 0.9


def test_a_small_class_counts_as_much_as_a_large_one_for_dice():
    targets = torch.zeros(1, 20, 20, dtype=torch.int64)
    targets[0, 0, 0] = 1
    missed = torch.tensor([100.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 20, 20)
    assert float(losses.dice(missed, targets)) == pytest.approx(0.5, abs=0.01)
    assert float(losses.cross_entropy(missed, targets)) < 0.5


def test_cross_entropy_and_dice_are_added():
    logits, targets = numbers((2, 5, 4))
    both = losses.cross_entropy(logits, targets, weight=WEIGHT) + losses.dice(logits, targets)
    close(losses.cross_entropy_dice(logits, targets, weight=WEIGHT), both)


@pytest.mark.parametrize("function", PIXELS, ids=name)
def test_what_is_unknown_counts_for_nothing(function):
    logits, targets = numbers((2, 5, 4))
    changed = torch.where((targets < 0).unsqueeze(1), torch.randn_like(logits) * 9, logits)
    close(function(changed, targets), function(logits, targets))
    function(logits, targets).backward()
    assert not logits.grad.movedim(1, -1)[targets < 0].any()
    assert logits.grad.any()


@pytest.mark.parametrize("function", PIXELS, ids=name)
def test_a_batch_of_which_nothing_is_known_teaches_nothing(function):
    logits, targets = numbers((2, 5, 4))
    loss = function(logits, torch.full_like(targets, -100))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("function", NUMBERS, ids=name)
def test_a_batch_of_which_nothing_counts_teaches_nothing(function):
    logits, targets = numbers()
    loss = function(logits, torch.full_like(targets, 3), weight=WEIGHT)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("function", WEIGHTED, ids=name)
def test_weights_of_one_change_nothing_and_others_do(function):
    logits, targets = of(function)
    close(function(logits, targets, weight=torch.ones(4)), function(logits, targets))
    assert abs(function(logits, targets, weight=WEIGHT) - function(logits, targets)) > 1e-4


@pytest.mark.parametrize("function", [losses.cross_entropy, losses.focal], ids=name)
def test_a_weight_counts_as_if_the_image_were_there_more_often(function):
    logits, targets = torch.randn(5, 2), torch.tensor([0, 0, 1, 1, 0])
    often = torch.tensor([0, 1, 2, 2, 2, 3, 3, 3, 4])
    close(function(logits, targets, weight=torch.tensor([1.0, 3.0])), function(logits[often], targets[often]))


@settings(max_examples=20)
@given(st.sampled_from([*PIXELS, *LABELS]), seeds, st.floats(1, 1000))
def test_losses_are_finite_and_so_are_their_gradients(function, seed, scale):
    logits, targets = of(function, seed)
    loss = function(logits * scale, targets)
    loss.backward()
    assert loss.isfinite()
    assert loss >= 0
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("function", [*PIXELS, *LABELS], ids=name)
def test_a_step_along_the_gradient_lowers_the_loss(function):
    logits, targets = of(function)
    loss = function(logits, targets)
    loss.backward()
    assert function(logits - 0.1 * logits.grad / logits.grad.norm(), targets) < loss


@pytest.mark.parametrize("function", [losses.focal, losses.binary_focal], ids=name)
def test_what_is_right_already_counts_for_less(function):
    """How much of the loss stays of an answer that is nearly right, beside one that is wrong."""
    plain = {losses.focal: losses.cross_entropy, losses.binary_focal: losses.bce}[function]
    target = torch.tensor([0]) if function is losses.focal else torch.tensor([[1.0, 0.0]])
    sure, wrong = torch.tensor([[3.0, -3.0]]), torch.tensor([[-3.0, 3.0]])
    assert function(sure, target) / plain(sure, target) < 0.01
    assert function(wrong, target) / plain(wrong, target) > 0.9
