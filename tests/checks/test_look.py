from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import draw_images, small_model
from frostline.backbones import load_backbone
from frostline.checks import samples as gathering
from frostline.checks.look import leaked, look
from frostline.checks.samples import gathered, samples_of
from frostline.machine import find_machine
from frostline.store.activations import computed_once
from tasks_data import HOW, halves, several_labels

FP32 = find_machine("cpu", "fp32")


def looked_at(rows, classes):
    samples, lacking = gathered(rows, classes)
    return look(samples, (), lacking)


def rows_of(images, **options):
    network = load_backbone(small_model(), preprocessing=HOW).network(len(images.classes), 0, images.task)
    lower, _ = network.cut("head")
    return {name: computed_once(lower, part, machine=FP32, **options) for name, part in images.splits.items()}


@pytest.mark.parametrize("images", [several_labels(), halves()], ids=["several labels", "masks"])
def test_every_task_can_be_looked_at(images):
    rows = rows_of(images.with_splits({"valid": images.train.take(np.arange(8))}))
    checks = looked_at(rows, images.classes)
    assert checks.n == len(images.train) + 8 + len(images.test)
    assert checks.counts["leak"] >= 8
    assert (checks.counts["label-error"], checks.lacking) == (0, "")


def test_unreadable_images_are_findings_and_count(stripes):
    checks = look(samples_of({"train": stripes.train}, stripes.classes), [("train", "bad.png", "empty file")])
    assert checks.n == len(stripes.train) + 1
    assert [(f.paths, f.splits, f.detail) for f in checks.of("unreadable")] == [
        (("bad.png",), ("train",), "empty file")
    ]


def test_without_features_copies_are_still_told(stripes, monkeypatch):
    copied = stripes.with_splits({"valid": stripes.train.take(np.arange(4))})
    again = looked_at(rows_of(copied, keep=False), stripes.classes)
    assert again.lacking == "the features of the images are not cached"
    assert again.counts["leak"] == 4
    monkeypatch.setattr(gathering, "MOST_BYTES", 1000)
    large = looked_at(rows_of(copied), stripes.classes)
    assert "more than 1.0 kB" in large.lacking
    assert large.counts["leak"] == 4


def test_leaked_images_are_named_once(stripes):
    splits = {"train": stripes.train, "valid": stripes.valid, "test": stripes.train.take(np.arange(3))}
    checks = look(samples_of(splits, stripes.classes))
    assert leaked(checks, "test") == {"picture-0", "picture-1", "picture-2"}
    assert leaked(checks, "valid") == set()  # whose images have the same names


def test_outliers_and_wrong_labels_come_from_the_features():
    torch.manual_seed(0)
    images = draw_images(60)
    targets = torch.from_numpy(images.targets.copy())
    features = 4 * torch.randn(3, 20)[targets] + 0.5 * torch.randn(60, 20)
    features[10] = 20 * torch.randn(20)
    images.targets[20] = (images.targets[20] + 1) % 3
    checks = look(samples_of({"train": images}, ("a", "b", "c"), features))
    assert [finding.paths for finding in checks.of("outlier")] == [("picture-10",)]
    assert checks.of("label-error")[0].paths == ("picture-20",)
