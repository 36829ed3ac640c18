"""A network that takes one channel goes every way that one of three does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import frostline
from conftest import draw_images
from frostline.backbones import load_backbone
from frostline.classifier.artifact import load
from frostline.data.images import ImageSet
from frostline.plan import Phase
from frostline.preprocessing import Preprocessing

SIZE = 28


def grey_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 16, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)
    )


def test_a_network_of_one_channel_learns_and_predicts(tmp_path):
    images = ImageSet("stripes", ("flat", "tall", "plain"), draw_images(90), draw_images(30, seed=1))
    backbone = load_backbone(grey_network(), preprocessing=Preprocessing(size=SIZE, resize=SIZE))
    plan = [Phase("5", epochs=5, lr=1e-2, views=2), Phase("stem", epochs=25, lr=3e-3, views=2)]
    options = {"backbone": backbone, "plan": plan, "augment": "none", "precision": "fp32", "quiet": True}
    runs = [
        frostline.fit(images, out=tmp_path / f"run{number}", store=tmp_path / "cache", **options) for number in range(2)
    ]
    assert runs[0].metrics["valid"]["accuracy"] > 0.8
    assert runs[0].metrics["valid"] == runs[1].metrics["valid"]
    assert (runs[0].path / "plots" / "confusion.png").is_file()  # of plain views alone there is no sheet
    classifier = load(runs[0].path, model=grey_network())
    assert classifier.preprocessing.channels == 1
    predictions = list(classifier.predictions(images.valid.pictures))
    right = np.mean([p.label == images.classes[t] for p, t in zip(predictions, images.valid.targets, strict=True)])
    assert right == pytest.approx(runs[0].metrics["valid"]["accuracy"])
