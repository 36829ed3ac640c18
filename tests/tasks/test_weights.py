"""How much each class counts in a loss, beside scikit-learn's figures."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight

from frostline.data.masks import NOTHING, Masks
from frostline.errors import DataError, UsageError
from frostline.tasks.weights import class_weights, imbalance

SAME = np.arange(256, dtype=np.uint8)
CLASSES = ("a", "b", "c")


@pytest.mark.parametrize("seed", range(3))
def test_balanced_weights_are_scikit_learns(seed):
    numbers = np.random.default_rng(seed).choice(3, 200, p=[0.7, 0.2, 0.1])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=numbers)
    assert class_weights("balanced", numbers, CLASSES).tolist() == pytest.approx(expected.tolist())
    assert class_weights("balanced", numbers, CLASSES).dtype == torch.float32


def test_balanced_weights_make_all_classes_count_the_same():
    numbers = np.array([0] * 8 + [1] * 2 + [2])
    weight = class_weights("balanced", numbers, CLASSES)
    shares = torch.bincount(torch.from_numpy(numbers)) * weight
    torch.testing.assert_close(shares, shares[:1].expand(3))


def test_balanced_weights_of_labels_are_absent_to_present():
    labels = np.array([[True, True]] * 2 + [[False, True]] * 5 + [[False, False]])
    assert class_weights("balanced", labels, CLASSES[:2]).tolist() == pytest.approx([3.0, 1 / 7])


def test_balanced_weights_of_masks_count_pixels_and_not_the_unknown():
    mask = np.repeat(np.array([0, 1, 2, NOTHING], np.uint8), [10, 4, 2, 48]).reshape(8, 8)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=mask.ravel()[:16])
    assert class_weights("balanced", Masks([mask], SAME), CLASSES).tolist() == pytest.approx(expected.tolist())
    assert class_weights("balanced", Masks([mask] * 3, SAME), CLASSES).tolist() == pytest.approx(expected.tolist())


def test_a_mask_that_cannot_be_read_is_named_when_its_pixels_are_counted(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "colours.png")
    with pytest.raises(DataError, match=r"cannot read the mask .*colours\.png: colours; a mask must"):
        class_weights("balanced", Masks([tmp_path / "colours.png"], SAME), CLASSES)


def test_a_class_without_images_has_a_finite_weight():
    for targets in (np.array([0, 0, 1]), np.array([[True, False, False]]), Masks([np.zeros((2, 2), np.uint8)], SAME)):
        weight = class_weights("balanced", targets, CLASSES)
        assert weight.shape == (3,)
        assert weight.isfinite().all()


def test_weights_go_by_name():
    weights = {"c": 3, "a": 1.0, "b": 0.0}
    assert class_weights(weights, np.array([0, 1, 2]), CLASSES).tolist() == [1.0, 0.0, 3.0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("inverse", "class_weights is 'inverse'; it must be 'balanced' or a weight for each class"),
        ([1.0, 2.0, 3.0], "class_weights is [1.0, 2.0, 3.0]; it must be 'balanced' or a mapping"),
        ({"a": 1.0, "b": 1.0}, "class_weights name a, b, but the classes are a, b, c"),
        ({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, "class_weights name a, b, c, d, but the classes are a, b, c"),
        ({"a": -1.0, "b": 1.0, "c": 1.0}, "they must be finite and not negative"),
        ({"a": float("inf"), "b": 1.0, "c": 1.0}, "they must be finite and not negative"),
        ({"a": float("nan"), "b": 1.0, "c": 1.0}, "they must be finite and not negative"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        class_weights(weights, np.array([0, 1, 2]), CLASSES)


@pytest.mark.parametrize(
    ("numbers", "times"), [([0, 1], 1), ([0] * 12 + [1], 12), ([0] * 3 + [2], 3), ([], 1), ([4] * 9, 1)]
)
def test_imbalance_is_the_largest_to_the_smallest_class_that_is_there(numbers, times):
    assert imbalance(np.array(numbers, np.int64)) == times


def test_several_labels_are_not_called_imbalanced():
    assert imbalance(np.array([[True, False]] * 30 + [[False, True]])) == 1
