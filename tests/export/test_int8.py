"""What int8 keeps is measured on validation images with the metric of the task."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import draw_images
from exports import CLASSES, classifier
from frostline.data.images import Images
from frostline.errors import DataError, MachineError
from frostline.export.int8 import Kept, kept_by, refuse_loss


def labelled(task: str = "classification", count: int = 40) -> Images:
    """Images whose labels are what the classifier says, so that its own figure is 1."""
    drawn = draw_images(count)
    p = classifier(task).predict_proba(list(drawn.pictures))
    return Images(drawn.pictures, p.argmax(1) if task == "classification" else p > np.median(p, 0), drawn.names)


@pytest.mark.parametrize(("task", "metric"), [("classification", "accuracy"), ("multilabel", "mean_ap")])
def test_equal_answers_keep_everything(task, metric):
    made = classifier(task)
    measured, kept = kept_by(
        lambda batch: made.predict_proba(list(batch)), made, labelled(task), fp32_bytes=9, resizes=True
    )
    assert kept == Kept(metric, 40, 1.0, 1.0, 9)
    assert (measured.images, measured.same) == (40, 1.0)
    refuse_loss(kept, "onnx")


def test_wrong_answers_are_counted():
    made = classifier()

    def swapped(batch: np.ndarray) -> np.ndarray:
        """Another class for one picture in four; told by one of its pixels."""
        p = made.predict_proba(list(batch))
        return np.stack([each[::-1] if image[3, 3, 1] % 4 == 0 else each for each, image in zip(p, batch, strict=True)])

    images = labelled()
    changed = [
        image[3, 3, 1] % 4 == 0 and target != len(CLASSES) // 2
        for image, target in zip(images.pictures, images.targets, strict=True)
    ]
    _, kept = kept_by(swapped, made, images, fp32_bytes=9, resizes=True)
    assert 0 < sum(changed) < 40
    assert kept.int8 == pytest.approx(1 - sum(changed) / 40)
    with pytest.raises(MachineError, match=r"the onnx file loses more than a point: accuracy .* on 40 validation"):
        refuse_loss(kept, "onnx")


def test_a_point_may_be_lost_and_no_more():
    refuse_loss(Kept("accuracy", 100, 0.95, 0.94, 9), "onnx")
    refuse_loss(Kept("accuracy", 100, 0.95, 0.99, 9), "onnx")
    with pytest.raises(MachineError, match="mean AP 93.9 % in int8 and 95.0 % in fp32 on 1,000 validation images"):
        refuse_loss(Kept("mean_ap", 1000, 0.95, 0.939, 9), "openvino")


@pytest.mark.parametrize("wrong", [lambda p: p[:1], lambda p: p * np.nan], ids=["one image of a batch", "not a number"])
def test_nonsense_is_no_file(wrong):
    made = classifier()
    with pytest.raises(ValueError, match="gives no probabilities"):
        kept_by(lambda batch: wrong(made.predict_proba(list(batch))), made, labelled(), fp32_bytes=9, resizes=True)


def test_without_a_readable_image_nothing_is_measured(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    images = Images([tmp_path / "a.png"], np.zeros(1, np.int64), ["a"])
    made = classifier()
    with pytest.raises(DataError, match="no validation image can be read"):
        kept_by(lambda batch: made.predict_proba(list(batch)), made, images, fp32_bytes=9, resizes=True)
