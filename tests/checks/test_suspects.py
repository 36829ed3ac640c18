from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import draw_images
from frostline.checks import suspects as module
from frostline.checks.samples import samples_of
from frostline.checks.suspects import Said, findings, left_out, said_of, suspects


def clusters(count: int, classes: int = 3, width: int = 12) -> tuple[torch.Tensor, np.ndarray]:
    chance = torch.Generator().manual_seed(1)
    targets = np.arange(count) % classes
    middles = 3 * torch.randn(classes, width, generator=chance)
    return middles[torch.from_numpy(targets)] + torch.randn(count, width, generator=chance), targets


def samples(count: int, swapped: list[int]):
    features, targets = clusters(count)
    images = draw_images(count)
    targets = targets.copy()
    targets[swapped] = (targets[swapped] + 1) % 3
    images.targets[:] = targets
    return samples_of({"train": images}, ("a", "b", "c"), features)


def test_swapped_labels_are_the_first_suspects():
    some = samples(90, [4, 17, 60])
    assert left_out(some).sums.sum() == pytest.approx(90, rel=1e-5)
    found = list(findings(some))
    assert {finding.paths[0] for finding in found[:3]} == {"picture-4", "picture-17", "picture-60"}
    assert found[0].kind == "label-error"
    assert all(0 < finding.score <= 1 for finding in found)


def test_right_labels_of_classes_that_are_far_apart_are_no_suspects():
    assert suspects(left_out(samples(90, [])), np.arange(90) % 3) == []


def test_of_many_classes_only_some_images_choose_and_blocks_say_the_same(monkeypatch):
    some = samples(90, [4, 17, 60])
    whole = left_out(some)
    monkeypatch.setattr(module, "SHARPENING", 60 * 3)
    monkeypatch.setattr("frostline.training.ridge.BLOCK_BYTES", 8 * 12 * 7)  # seven rows at once
    assert left_out(some).suggested.tolist() == whole.suggested.tolist()
    assert [f.paths for f in findings(some)][:3] == [f.paths for f in findings(some, whole)][:3]


def test_where_every_class_is_too_small_nothing_is_solved(monkeypatch):
    monkeypatch.setattr(module, "left_out", None)
    targets = np.arange(8) // 2
    images = draw_images(8)
    images.targets[:] = targets
    assert list(findings(samples_of({"train": images}, tuple("abcd"), torch.eye(8)))) == []


def test_what_is_said_in_blocks_is_what_is_said_at_once():
    probabilities, targets = np.random.default_rng(0).dirichlet(np.ones(4), 10), np.arange(10) % 4
    once, blocks = (said_of(np.split(probabilities, at), targets, 4) for at in ([], [3, 7]))
    for name in Said.__dataclass_fields__:
        np.testing.assert_allclose(getattr(once, name), getattr(blocks, name))


def test_an_image_does_not_vouch_for_its_own_label():
    """Without being left out every one of so few images would be fitted, whatever its label is."""
    some = samples(30, [5])
    assert left_out(some).suggested[5] == 5 % 3


@pytest.mark.parametrize("count", [1, 2])
def test_of_a_class_of_so_few_images_nothing_can_be_said(count):
    probabilities = np.tile([0.98, 0.02], (20, 1))
    targets = np.array([1] * count + [0] * (20 - count))
    assert suspects(said_of([probabilities], targets, 2), targets) == []


def test_the_rule_compares_with_what_is_usual_for_a_class():
    """A class that is never sure of its own images is not contradicted by half a percent more of another one."""
    probabilities = np.array([[0.52, 0.48]] * 10 + [[0.9, 0.1]] * 10)
    targets = np.array([1] * 10 + [0] * 10)
    assert suspects(said_of([probabilities], targets, 2), targets) == []
    probabilities[0] = [0.95, 0.05]
    assert [suspect.image for suspect in suspects(said_of([probabilities], targets, 2), targets)] == [0]
