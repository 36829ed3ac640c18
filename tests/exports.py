"""What the tests of all formats share: classifiers of every kind, and their export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from conftest import SIZE, small_model
from frostline.classifier.classifier import Classifier
from frostline.export import exporter_of
from frostline.export.verifying import Agreement, agreement
from frostline.export.whole import whole
from frostline.machine import find_machine
from frostline.preprocessing import Preprocessing

CLASSES = ("ä", "b", "c", "d", "e")
ABOUT = {"classes": '["ä", "b", "c", "d", "e"]', "frostline_version": "1"}
SIZES = [(40, 60), (61, 33), (7, 200), (SIZE, SIZE)]


def classifier(task: str = "classification", temperature: float = 1.7) -> Classifier:
    """A network that has more than one answer, with a preprocessing that crops."""
    how = Preprocessing(size=SIZE, resize=36, interpolation="bicubic")
    return Classifier(small_model(), CLASSES, how, find_machine("cpu", "fp32", 2), task, temperature)


def images() -> list[np.ndarray]:
    chance = np.random.default_rng(0)
    return [chance.integers(0, 256, (*size, 3)).astype(np.uint8) for size in SIZES]


def exported(name: str, folder: Path, made: Classifier, about: Mapping[str, str] = ABOUT) -> tuple[Path, Agreement]:
    """The file of a format, and how it agrees with its classifier."""
    exporter = exporter_of(name)
    file, program = folder / f"model{exporter.ENDING}", whole(made, resizes=exporter.RESIZES)
    exporter.write(program, about, file)
    return file, agreement(exporter.answering(file, program), made, images(), resizes=exporter.RESIZES)
