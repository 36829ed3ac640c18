"""What a run's classifier says of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from frostline.classifier.artifact import load_classifier
from frostline.classifier.classifier import Prediction
from frostline.data.decoding import Picture
from frostline.machine import find_machine
from frostline.runs.run import Run


def predict(
    run: str | Path | Run, images: Sequence[Picture | str], *, device: str = "auto", model: nn.Module | None = None
) -> list[Prediction]:
    """What a run's classifier says of some images: one prediction each, in order.

    images: files, or arrays (H, W) or (H, W, 3) of uint8. model: as in `load_classifier`.
    """
    return list(load_classifier(run, model, find_machine(device, "fp32")).predict(images))
