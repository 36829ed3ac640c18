"""The images that a run shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import SIZE, draw_images, small_model
from frostline.classifier.classifier import Classifier
from frostline.data.images import Images
from frostline.data.views import Views, pixels
from frostline.machine import find_machine
from frostline.preprocessing import Preprocessing
from frostline.report.shots import WORST, mistakes, shots_of, viewed, worst_masks
from frostline.tasks import task_of
from tasks_data import halves

HOW = Preprocessing(size=SIZE, resize=36)
CLASSES = ("flat", "tall", "plain")


def classifier_of(classes=CLASSES, task="classification") -> Classifier:
    return Classifier(small_model(), classes, HOW, find_machine("cpu", "fp32", 2), task)


def test_the_worst_mistakes_come_first_and_only_mistakes():
    valid, task = draw_images(6), task_of("classification")
    logits = torch.eye(3)[torch.from_numpy(valid.targets)] * 4
    logits[1] = torch.tensor([9.0, 0, 0])
    logits[5] = torch.tensor([0, 30.0, 0])
    found = mistakes(classifier_of(), valid, task.outputs(logits, torch.from_numpy(valid.targets)), "valid")
    assert found.count == 2
    assert [(shot.number, shot.true, shot.predicted) for shot in found.shots] == [
        (5, "plain", "tall"),
        (1, "tall", "flat"),
    ]
    assert [shot.name for shot in found.shots] == [valid.names[5], valid.names[1]]
    assert [shot.p for shot in found.shots] == pytest.approx([1, 1], abs=1e-3)
    assert all(shot.pixels.shape == (SIZE, SIZE, 3) for shot in found.shots)


def test_of_many_mistakes_the_worst_are_kept_and_all_are_counted():
    valid, task = draw_images(90), task_of("classification")
    wrong = torch.eye(3)[(torch.from_numpy(valid.targets) + 1) % 3] * torch.arange(1, 91)[:, None]
    found = mistakes(classifier_of(), valid, task.outputs(wrong, torch.from_numpy(valid.targets)), "valid")
    assert found.count == 90
    assert [shot.number for shot in found.shots] == list(range(89, 89 - WORST, -1))


def test_where_nothing_is_wrong_nothing_is_shown():
    valid, task = draw_images(6), task_of("classification")
    outputs = task.outputs(torch.eye(3)[torch.from_numpy(valid.targets)], torch.from_numpy(valid.targets))
    found = mistakes(classifier_of(), valid, outputs, "valid")
    assert (found.count, list(found.shots)) == (0, [])


def test_several_labels_are_mistaken_where_one_is():
    images, labels = draw_images(2), np.array([[True, True], [False, False]])
    outputs = task_of("multilabel").outputs(torch.tensor([[9.0, -9.0], [-9.0, -9.0]]), torch.from_numpy(labels).float())
    valid = Images(images.pictures, labels, images.names)
    (shot,) = mistakes(classifier_of(("a", "b"), "multilabel"), valid, outputs, "valid").shots
    assert (shot.true, shot.predicted) == ("a|b", "a")


def test_what_cannot_be_read_is_left_out(tmp_path):
    valid = draw_images(3)
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, picture in zip(files[:2], valid.pictures, strict=False):
        Image.fromarray(picture).save(file)
    wrong = torch.eye(3)[(torch.from_numpy(valid.targets) + 1) % 3]
    outputs = task_of("classification").outputs(wrong, torch.from_numpy(valid.targets))
    found = mistakes(classifier_of(), Images(files, valid.targets, ["0", "1", "2"]), outputs, "valid")
    assert found.count == 3
    assert sorted(shot.number for shot in found.shots) == [0, 1]


@pytest.mark.parametrize("count", [1, 3, 50])
def test_views_are_those_that_training_sees(count):
    train, views = draw_images(count), Views(2, seed=5)
    found = viewed(train, views, classifier_of())
    assert len(found) == min(5, count)
    for name, own in found:
        i = list(train.names).index(name)
        assert np.array_equal(own, pixels(train.pictures[i], train.digests[i], [0, 1], views, HOW))


def test_of_plain_images_there_are_no_views():
    assert viewed(draw_images(3), Views(1, seed=5), classifier_of()) == []


class Dark(torch.nn.Module):
    """Every pixel is of the first class."""

    def forward(self, x):
        return torch.stack([torch.ones_like(x[:, 0]), torch.zeros_like(x[:, 0])], 1)


def test_the_lowest_mean_iou_comes_first():
    images = halves()
    classifier = Classifier(
        Dark(),
        ("dark", "bright"),
        Preprocessing(size=SIZE, resize=SIZE),
        find_machine("cpu", "fp32", 2),
        "segmentation",
    )
    truth = torch.stack([torch.from_numpy(np.array(mask)) for mask in images.valid.targets.pictures]).long()
    logits = torch.stack([torch.ones(truth.shape), torch.zeros(truth.shape)], 1)  # all is dark
    outputs = task_of("segmentation").outputs(logits, truth)
    found = worst_masks(classifier, images.valid, outputs)
    ious = [own.iou for own in found]
    assert ious == sorted(ious)
    assert ious[0] == pytest.approx(float(outputs.pixels.mean_iou.min()))
    for own in found:
        assert set(np.unique(own.truth)) == {0, 1}
        assert not own.predicted.any()
        assert own.iou == pytest.approx((own.truth == 0).mean() / 2)
    both = shots_of(classifier, images.train, Views(1), {"valid": (images.valid, outputs)})
    assert [own.name for own in both.masks["valid"]] == [own.name for own in found]
    assert len(both.usual) == 6
    assert not both.wrong
