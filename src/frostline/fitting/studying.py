"""What the stored features also tell: whether more images would help, and how much each image is worth."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from frostline.checks.samples import Samples
from frostline.data.grouping import alone, same_content
from frostline.data.images import Images, ImageSet
from frostline.data.split import some_of_each
from frostline.runs.run import Run, write_csv
from frostline.tasks.intervals import wilson
from frostline.training.learning import LearningCurve, forecast, learning_curve
from frostline.training.ridge import best_left_out, decompose
from frostline.training.worth import worth_of

BAND = 0.8  # probability that a forecast value lies in its band
SAID = 200_000_000  # maximum of images × classes: more would take minutes
MOST = 20_000  # maximum of images whose worth is computed: of more, some of each class
ENOUGH = 1_000  # validation images that measure alone: adding the training images would take long
SHOWN = 20  # most harmful images shown


@dataclass(frozen=True, eq=False)
class Study:
    """curve: None with too few images, several labels per image, or no stored features.

    train: the images whose worth is known, in the order of `worth`, their effect on validation images.
    instead: the class that the other images predict for each, (N,).
    """

    curve: LearningCurve | None = None
    train: Images | None = None
    worth: np.ndarray = field(default_factory=lambda: np.empty(0))
    instead: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def harmful(self) -> list[int]:
        """The numbers of the most harmful images, at most 20, worst first."""
        order = np.argsort(self.worth, kind="stable")[:SHOWN]
        return [int(i) for i in order if self.worth[i] < 0]


def studied(samples: Samples, images: ImageSet, leaks: Collection[str] = ()) -> Study:
    """The study of a fit's images. It does not use test images, because people act upon its results.

    images: those of the fit, with the origin of the validation split and the groups. A separate validation set may
    differ from the training images, so it measures alone; so does a large one. leaks: the names of validation
    images that do not count, because the training images hold copies of them.
    """
    train = samples.rows("train") if samples.one_label else None
    classes = len(samples.classes)
    if train is None or len(train) < 2 or len(train) * classes > SAID:
        return Study()
    valid = samples.rows("valid")
    if valid is not None and leaks:
        valid = valid.some(np.array([i for i, name in enumerate(valid.images.names) if name not in leaks], np.int64))
    ridge = decompose(train, classes)
    penalty, said = best_left_out(ridge)
    contents = same_content(train.images)  # an image must not stand for its copy
    copies = None if contents is None else contents.astype(str).tolist()
    groups = alone(train.images.names, images.groups) if images.groups else copies
    pooled = images.validation != "given" and (valid is None or len(valid) < ENOUGH)
    curve = learning_curve(train, classes, valid, groups=groups, pooled=pooled, whole=(ridge, penalty, said))
    crossed = images.validation == "crossed" and contents is not None  # no part of it is without a copy elsewhere
    if curve is not None and (crossed or _is_chance(curve, np.asarray(train.images.targets))):
        curve = None
    if valid is None or not len(valid):
        return Study(curve)
    if len(train.images) > MOST:
        chosen = some_of_each(train.images, MOST)
        ridge, said = replace(ridge, features=train.some(chosen)), said[torch.from_numpy(chosen)]
    return Study(curve, ridge.features.images, worth_of(ridge, penalty, valid).numpy(), said.numpy())


def _is_chance(curve: LearningCurve, targets: np.ndarray) -> bool:
    """Whether the head may be no better than always predicting the largest class, so that a forecast is meaningless."""
    n, accuracy = int(curve.held_out[-1]), float(curve.accuracy[-1])
    return bool(wilson(accuracy * n, n)[0] <= np.bincount(targets).max() / len(targets))


def curve_as_json(curve: LearningCurve | None, classes: Sequence[str]) -> dict[str, Any] | None:
    """The accuracies by number of images, and the forecast for twice as many: in total and per class."""
    if curve is None:
        return None
    points = []
    for size, accuracy, n in zip(curve.sizes.tolist(), curve.accuracy, curve.held_out, strict=True):
        points.append({"images": size, "accuracy": float(accuracy), "interval": list(wilson(accuracy * n, n))})
    per_class = {
        name: {"recall": float(curve.recall[-1, label]), **_doubled(curve, label)}
        for label, name in enumerate(classes)
        if curve.present[:, label].all()
    }
    return {"of": "solved head", "points": points, "doubled": _doubled(curve), "per_class": per_class}


def _doubled(curve: LearningCurve, label: int | None = None) -> dict[str, float]:
    images = 2 * int(curve.sizes[-1])
    low, middle, high = forecast(curve, images, BAND, label)
    expected = {"expected": middle, "low": low, "high": high, "band": BAND}
    return expected if label is not None else {"images": images, **expected}


def write_worth(run: Run, study: Study, classes: Sequence[str]) -> None:
    """worth.csv: every training image, most harmful first."""
    if study.train is None:
        return
    labels = study.train.labels(tuple(classes))
    records = [
        (study.train.names[i], labels[i], classes[study.instead[i]], float(f"{study.worth[i]:.3e}"))
        for i in np.argsort(study.worth, kind="stable")
    ]
    write_csv(run, "worth.csv", ("path", "label", "by_the_others", "worth"), records)
