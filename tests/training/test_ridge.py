from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frostline.data.images import Images
from frostline.data.masks import Masks
from frostline.data.targets import targets_of
from frostline.data.views import Views
from frostline.errors import DataError, UsageError
from frostline.store.activations import Activations, Filled
from frostline.training.ridge import (
    PENALTIES,
    best_left_out,
    best_penalty,
    decompose,
    left_out,
    left_out_blocks,
    left_out_errors,
    solution,
)
from regressions import HOW, drawn, features, refitted

FEW = (0.01, 0.3, 20.0)


def check(inputs: Activations, classes: int, weight: torch.Tensor | None) -> None:
    """The path and what is left out against a fit without each image in turn, with the same scale and penalty."""
    ridge = decompose(inputs, classes, weight)
    ((x, y),) = inputs.batches(100_000)
    z = ((x.double() - ridge.scale.mean.double()) / ridge.scale.deviation.double()).numpy()
    t = (torch.nn.functional.one_hot(y, classes) if y.ndim == 1 else y).double().numpy()
    w = np.ones(len(z)) if weight is None else weight.double()[y].numpy()
    image = np.repeat(np.arange(len(inputs.images)), inputs.views)
    predicted, errors = left_out(ridge, FEW).numpy(), left_out_errors(ridge, FEW).numpy()
    for penalty, ours, error in zip(FEW, predicted, errors, strict=True):
        strength = penalty * w.sum()
        matrix, bias = refitted(z, t, w, strength)
        solved, constant = solution(ridge, penalty)
        np.testing.assert_allclose(x.double() @ solved.T + constant, z @ matrix + bias, atol=1e-8)
        for i in range(len(inputs.images)):
            matrix, bias = refitted(z[image != i], t[image != i], w[image != i], strength)
            np.testing.assert_allclose(ours[image == i], z[image == i] @ matrix + bias, atol=1e-8)
        np.testing.assert_allclose(error, ((ours - t) ** 2 * w[:, None]).sum() / w.sum())


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 99), st.integers(2, 20), st.integers(1, 24), st.integers(1, 4), st.booleans())
def test_left_out_is_what_fits_without_the_image_say(seed, count, width, views, weighted):
    weight = torch.tensor([0.5, 1.0, 4.0]) if weighted else None
    check(features(*drawn(seed, count, width, views), views), 3, weight)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 99), st.integers(2, 20), st.integers(1, 24), st.integers(1, 4))
def test_left_out_is_exact_of_several_labels(seed, count, width, views):
    x, _ = drawn(seed, count, width, views)
    check(features(x, np.random.default_rng(seed).random((count, 3)) < 0.4, views), 3, None)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 99), st.integers(1, 4), st.sampled_from([3, 40]))
def test_the_order_of_images_changes_nothing(seed, views, width):
    x, y = drawn(seed, 12, width, views)
    order = np.random.default_rng(seed).permutation(12)
    rows = (order[:, None] * views + np.arange(views)).ravel()
    plain, shuffled = decompose(features(x, y, views), 3), decompose(features(x[rows], y[order], views), 3)
    torch.testing.assert_close(left_out(shuffled, FEW), left_out(plain, FEW)[:, rows], rtol=0, atol=1e-5)
    for ours, other in zip(solution(shuffled, 0.3), solution(plain, 0.3), strict=True):
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-5)


def test_a_copy_of_each_image_changes_no_error():
    """Were the copies left out one by one, each would vouch for the other and the weakest penalty would look best."""
    x, y = drawn(0, 30, 50, 1)
    once, twice = decompose(features(x, y), 3), decompose(features(x.repeat(2, 0), y, 2), 3)
    torch.testing.assert_close(left_out_errors(twice, FEW), left_out_errors(once, FEW), rtol=1e-5, atol=0)


def test_an_own_label_says_nothing_of_what_is_predicted_without_it():
    x, y = drawn(3, 20, 30, 2)
    other = y.copy()
    other[7] = (y[7] + 1) % 3
    before, after = (left_out(decompose(features(x, t, 2), 3), FEW)[:, 14:16] for t in (y, other))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-9)


@pytest.mark.parametrize("space", [800, 1])  # 1: less than one image, which is the least that is read
def test_rows_of_several_blocks_are_those_of_one(monkeypatch, space):
    inputs = features(*drawn(1, 23, 12, 3), 3)
    whole = left_out(decompose(inputs, 3), PENALTIES)
    monkeypatch.setattr("frostline.training.ridge.BLOCK_BYTES", space)
    torch.testing.assert_close(left_out(decompose(inputs, 3), PENALTIES), whole, rtol=0, atol=1e-9)


def test_many_classes_are_multiplied_one_penalty_after_the_other(monkeypatch):
    ridge = decompose(features(*drawn(1, 23, 12, 3), 3), 3)
    whole = left_out(ridge, PENALTIES)
    monkeypatch.setattr("frostline.training.ridge.TOGETHER", 0)
    torch.testing.assert_close(left_out(ridge, PENALTIES), whole, rtol=0, atol=1e-12)


def test_some_images_can_be_asked_about(monkeypatch):
    ridge, some = decompose(features(*drawn(1, 23, 12, 3), 3), 3), np.array([2, 5, 11])
    rows = (some[:, None] * 3 + np.arange(3)).ravel()
    asked = torch.cat(list(left_out_blocks(ridge, 0.3, some)))
    torch.testing.assert_close(asked, left_out(ridge, [0.3])[0, rows], rtol=0, atol=1e-12)
    monkeypatch.setattr("frostline.training.ridge.FEWEST", 8)
    monkeypatch.setattr("frostline.training.ridge.CHOOSING", 0)
    errors = left_out_errors(ridge, PENALTIES, np.linspace(0, 22, 8).astype(np.int64))
    assert best_penalty(ridge) == PENALTIES[int(errors.argmin())]


def test_noise_asks_for_a_stronger_penalty_than_signal():
    x, y = drawn(2, 60, 40, 2)
    noise = np.random.default_rng(0).permutation(y)
    best = [int(left_out_errors(decompose(features(x, t, 2), 3), PENALTIES).argmin()) for t in (y, noise)]
    assert best[0] < best[1]


def test_a_class_of_one_image_one_class_only_and_constant_features_are_solved():
    x, _ = drawn(0, 6, 5, 2)
    for targets in ([0, 0, 0, 0, 0, 1], [2] * 6):
        check(features(x, np.array(targets), 2), 3, None)
    same = features(np.full((12, 5), 7.0), np.array([0, 1, 0, 1, 0, 1]), 2)
    check(same, 2, None)
    weight, bias = solution(decompose(same, 2), 0.1)
    torch.testing.assert_close(torch.full((5,), 7.0).double() @ weight.T + bias, torch.tensor([0.5, 0.5]).double())


def test_a_class_that_counts_for_nothing_is_left_out_as_well():
    inputs = features(*drawn(5, 12, 6, 2), 2)
    check(inputs, 3, torch.tensor([0.0, 1.0, 1.0]))


def test_what_cannot_be_solved_is_refused_with_a_reason():
    x, y = drawn(0, 6, 5, 1)
    ridge = decompose(features(x, y), 3)
    for penalty in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="above 0"):
            solution(ridge, penalty)
    for weight in (torch.ones(2), torch.zeros(3), torch.tensor([1.0, -1.0, 1.0]), torch.tensor([1.0, 1.0, torch.nan])):
        with pytest.raises(UsageError, match="class weights"):
            decompose(features(x, y), 3, weight)
    with pytest.raises(UsageError, match="classes"):
        decompose(features(x, np.array([0, 1, 2, 3, 0, 1])), 3)
    with pytest.raises(UsageError, match="have weight 0"):
        decompose(features(x, np.zeros(6, np.int64)), 2, torch.tensor([0.0, 1.0]))
    with pytest.raises(UsageError, match="several labels"):
        decompose(features(x, np.eye(6, 3) > 0), 3, torch.ones(3))
    with pytest.raises(UsageError, match="at least one image"):
        decompose(features(x[:0], y[:0]), 3)
    with pytest.raises(UsageError, match="two images"):
        left_out(decompose(features(x[:1], y[:1]), 3), FEW)
    x[2, 3] = np.nan
    with pytest.raises(DataError, match="finite"):
        decompose(features(x, y), 3)


def test_masks_are_refused():
    masks = Masks([np.zeros((8, 8), np.uint8)] * 2, np.zeros(256, np.uint8))
    images = Images(np.zeros((2, 8, 8), np.uint8), masks, ["a", "b"])
    rows = torch.zeros(2, 4)
    inputs = Activations(images, 1, rows.__getitem__, targets_of(images, Views(), HOW), Filled(0, 2, 0.0, 0, "memory"))
    with pytest.raises(UsageError, match="masks"):
        decompose(inputs, 2)


def test_the_best_penalty_comes_with_the_classes_that_it_gives():
    inputs = features(*drawn(3, 40, 12, 2), 2)
    ridge = decompose(inputs, 3)
    penalty, classes = best_left_out(ridge)
    assert penalty == best_penalty(ridge) == PENALTIES[int(left_out_errors(ridge, PENALTIES).argmin())]
    assert torch.equal(classes, left_out(ridge, [penalty])[0].argmax(1))
