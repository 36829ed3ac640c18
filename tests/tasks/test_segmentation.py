from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, log_loss, precision_recall_fscore_support

from frostline.tasks import Outputs, join
from frostline.tasks.intervals import wilson
from frostline.tasks.segmentation import TASK, label, measure, metrics, outputs, predictions, probabilities

CLASSES = ("ground", "ant", "bee")
seeds = st.integers(0, 1000)


def some(seed: int = 0, count: int = 5, unknown: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    chance = np.random.default_rng(seed)
    targets = chance.integers(0, 3, (count, 6, 7))
    logits = chance.normal(size=(count, 3, 6, 7)) + np.eye(3)[targets].transpose(0, 3, 1, 2)
    targets[chance.random(targets.shape) < unknown] = -100
    return torch.from_numpy(logits).float(), torch.from_numpy(targets)


@given(seeds, st.sampled_from([0.0, 0.3]))
def test_the_figures_are_scikit_learns(seed, unknown):
    logits, targets = some(seed, unknown=unknown)
    known = targets >= 0
    true, predicted = targets[known], logits.argmax(1)[known]
    ours = measure(outputs(logits, targets))
    assert ours["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    assert ours["mean_iou"] == pytest.approx(jaccard_score(true, predicted, average="macro"))
    p = logits.double().softmax(1).movedim(1, -1)
    each = [log_loss(t[k], q[k].numpy(), labels=[0, 1, 2]) for t, q, k in zip(targets, p, known, strict=True)]
    assert ours["loss"] == pytest.approx(np.mean(each), rel=1e-4)


@given(seeds)
def test_the_figures_of_every_class_are_scikit_learns(seed):
    logits, targets = some(seed)
    true, predicted = targets.flatten(), logits.argmax(1).flatten()
    rows = metrics(outputs(logits, targets), CLASSES)["per_class"]
    precision, recall, f1, count = precision_recall_fscore_support(true, predicted)
    iou = jaccard_score(true, predicted, average=None)
    for i, name in enumerate(CLASSES):
        row = rows[name]
        assert [row["precision"], row["recall"], row["f1"], row["n"], row["iou"]] == pytest.approx(
            [precision[i], recall[i], f1[i], count[i], iou[i]]
        )


def test_the_counts_are_the_confusion_of_all_images_together():
    logits, targets = some(unknown=0.2)
    known, predicted = targets >= 0, logits.argmax(1)
    pixels = outputs(logits, targets).pixels
    assert pixels.confusion.tolist() == confusion_matrix(targets[known], predicted[known], labels=[0, 1, 2]).tolist()
    assert pixels.correct.tolist() == ((predicted == targets) & known).flatten(1).sum(1).tolist()
    assert pixels.counted.tolist() == known.flatten(1).sum(1).tolist()


def test_what_is_kept_per_image_is_no_matrix():
    """One matrix for all images: of 150 classes one per image would take 180 kB, two counts a class take 1."""

    def kept(count: int) -> int:
        chance = torch.Generator().manual_seed(0)
        batches = (
            outputs(torch.randn(1, 150, 4, 4, generator=chance), torch.randint(0, 150, (1, 4, 4), generator=chance))
            for _ in range(count)
        )
        whole = join(batches)
        tensors = (whole.logits, whole.targets, whole.losses, *vars(whole.pixels).values())
        return sum(tensor.nbytes for tensor in tensors)

    assert (kept(21) - kept(1)) / 20 < 1_300


@given(seeds, st.integers(1, 4))
def test_batches_decide_nothing(seed, cut):
    logits, targets = some(seed, unknown=0.2)
    parts = join([outputs(logits[:cut], targets[:cut]), outputs(logits[cut:], targets[cut:])])
    whole = outputs(logits, targets)
    for name, counts in vars(whole.pixels).items():
        torch.testing.assert_close(getattr(parts.pixels, name), counts, rtol=0, atol=0)
    assert metrics(parts, CLASSES)["per_class"] == metrics(whole, CLASSES)["per_class"]
    assert measure(parts) == pytest.approx(measure(whole), rel=1e-5)


def test_what_is_unknown_counts_for_nothing():
    logits, targets = some()
    targets[:, :2] = -100
    whole, cropped = outputs(logits, targets), outputs(logits[:, :, 2:], targets[:, 2:])
    assert torch.equal(whole.pixels.confusion, cropped.pixels.confusion)
    torch.testing.assert_close(whole.losses, cropped.losses)


def test_an_image_of_which_nothing_is_known_is_no_crash():
    logits, targets = some(count=1)
    found = metrics(outputs(logits, torch.full_like(targets, -100)), CLASSES)
    assert (found["accuracy"], found["loss"], found["mean_iou"]) == (0.0, 0.0, 0.0)
    assert json.loads(json.dumps(found)) == found


def test_the_mean_is_over_the_classes_that_are_in_the_images_or_predicted():
    """Ground and ants are in the image. A bee is predicted: it counts as missed, and only because it is predicted."""
    targets = torch.tensor([[[0, 0], [1, 1]]])

    def overlap(predicted: list[list[int]]) -> float:
        logits = torch.eye(4)[torch.tensor([predicted])].movedim(-1, 1)
        return measure(outputs(logits, targets))["mean_iou"]

    assert overlap([[0, 0], [1, 1]]) == 1.0
    assert overlap([[0, 0], [1, 2]]) == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert overlap([[0, 0], [0, 0]]) == pytest.approx((2 / 4 + 0) / 2)


def test_the_interval_is_that_of_the_images_not_of_the_pixels():
    """The pixels of an image are not independent: with all images alike each counts as one."""
    right = torch.eye(3)[torch.zeros(4, 20, 20, dtype=torch.int64)].movedim(-1, 1)
    targets = torch.zeros(4, 20, 20, dtype=torch.int64)
    alike = metrics(outputs(right, targets), CLASSES)["interval"]
    assert alike == pytest.approx(wilson(4, 4))
    targets[0], targets[1] = 1, 1
    low, high = metrics(outputs(right, targets), CLASSES)["interval"]
    half = 1.96 * np.std([0, 0, 1, 1], ddof=1) / 2
    assert (low, high) == pytest.approx((max(0, 0.5 - half), min(1, 0.5 + half)))
    assert metrics(outputs(right[:1], targets[:1]), CLASSES)["interval"] == [0.0, 1.0]


def test_the_label_is_the_class_of_most_pixels():
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 2, 0], logits[0, 0, 1, 0], logits[0, 2, 1, 1] = 3.0, 3.0, 3.0
    sure = float(torch.tensor([3.0, 0, 0]).softmax(0)[0])
    assert label(probabilities(logits)[0], CLASSES) == ("bee", pytest.approx(sure))


def test_probabilities_add_up_in_every_pixel():
    torch.testing.assert_close(probabilities(some()[0]).sum(1), torch.ones(5, 6, 7))


def test_predictions_say_of_each_image_how_many_of_its_pixels_are_right():
    logits, targets = some()
    rows = predictions([f"{i}.png" for i in range(5)], "test", outputs(logits, targets), CLASSES)
    assert [row[:2] for row in rows] == [(f"{i}.png", "test") for i in range(5)]
    for i, row in enumerate(rows):
        alone = measure(outputs(logits[i : i + 1], targets[i : i + 1]))
        assert [float(value) for value in row[2:]] == pytest.approx([alone[key] for key in TASK.columns[2:]], abs=1e-6)


def test_outputs_keep_counts_and_not_the_pixels():
    kept = outputs(*some())
    assert isinstance(kept, Outputs)
    assert kept.pixels.confusion.shape == (3, 3)
    assert kept.logits.shape == kept.targets.shape == (5, 0)
    assert len(kept) == 5
