"""Labels that the rest of the data contradicts, by the rule of confident learning.

An image is suspect where another class is more probable than it is, on average, for the images that are labelled with
that class (Northcutt, Jiang & Chuang, "Confident Learning", JAIR 2021). The probabilities must come from a model that
did not see the image's own label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from frostline.checks.findings import Finding
from frostline.checks.neighbours import shortened
from frostline.checks.samples import Samples
from frostline.data.targets import TableTargets
from frostline.store.activations import Activations, Filled
from frostline.training.ridge import PENALTIES, decompose, left_out, left_out_errors

WIDE, NARROW = 4_096, 1_024  # features of more numbers than the first are shortened to the second
FEWEST = 3  # images of a class, of which the others know what one of them looks like
NOTHING_FILLED = Filled(0, 0, 0.0, 0, "memory")
SHARPNESS = torch.logspace(0, 2, 41)  # what scores of the regression may be multiplied with to give logits


@dataclass(frozen=True)
class Suspect:
    """An image whose label may be wrong. given, suggested: classes. margin: by how much the latter is more probable."""

    image: int
    given: int
    suggested: int
    margin: float


def suspects(probabilities: np.ndarray, targets: np.ndarray) -> list[Suspect]:
    """The images whose label is likely wrong, the likeliest first.

    probabilities: (N, classes), of each image by a model without it. targets: (N,), the classes that are given.
    Ordered by the normalised margin, p(suggested) - p(given).

    >>> sure, unsure = [0.9, 0.1], [0.6, 0.4]
    >>> p = np.array([sure, sure, unsure, [0.1, 0.9], [0.1, 0.9], sure])
    >>> [(s.image, s.suggested) for s in suspects(p, np.array([0, 0, 0, 1, 1, 1]))]
    [(5, 0)]
    """
    classes, rows = probabilities.shape[1], np.arange(len(targets))
    given = probabilities[rows, targets]
    counts = np.bincount(targets, minlength=classes)
    usual = np.bincount(targets, given, classes) / np.maximum(counts, 1)
    usual[counts < FEWEST] = np.inf  # nobody knows how probable it is for its own
    confident = np.where(probabilities >= usual, probabilities, -1.0)
    suggested = confident.argmax(1)
    wrong = (suggested != targets) & (confident.max(1) >= 0) & (probabilities[rows, suggested] > given)
    wrong &= counts[targets] >= FEWEST
    margins = probabilities[rows, suggested] - given
    order = np.flatnonzero(wrong)[np.argsort(-margins[wrong], kind="stable")]
    return [Suspect(int(i), int(targets[i]), int(suggested[i]), float(margins[i])) for i in order]


def left_out_probabilities(samples: Samples) -> np.ndarray:
    """What the head that is solved without an image says of it, for each: (N, classes), rows sum to 1.

    It is the ridge regression of training/ridge.py, left-one-out exactly; its scores become probabilities by the
    factor that makes them the likeliest. Of features of more than 4,096 numbers the first 1,024 principal components
    are taken.
    """
    assert samples.features is not None  # noqa: S101
    wide = samples.features.shape[1] > WIDE
    rows = shortened(samples.features, NARROW) if wide else samples.features
    targets = torch.from_numpy(np.asarray(samples.images.targets))
    features = Activations(
        samples.images, 1, lambda numbers: rows[numbers].float(), TableTargets(targets, 1), NOTHING_FILLED
    )
    ridge = decompose(features, len(samples.classes))
    errors = left_out_errors(ridge, PENALTIES)
    scores = left_out(ridge, [PENALTIES[int(errors.argmin())]])[0]
    losses = torch.stack([functional.cross_entropy(scores * factor, targets) for factor in SHARPNESS])
    probabilities: Tensor = (scores * SHARPNESS[int(losses.argmin())]).softmax(1)
    return probabilities.numpy()


def findings(samples: Samples, probabilities: np.ndarray) -> Iterator[Finding]:
    """The labels of images of one class each that speak against `probabilities`, as `suspects` takes them."""
    for suspect in suspects(probabilities, np.asarray(samples.images.targets)):
        given, suggested = samples.classes[suspect.given], samples.classes[suspect.suggested]
        where = [suspect.image]
        text = f"labelled {given}, yet {suggested} is more probable by {suspect.margin:.2f}"
        yield Finding("label-error", samples.names(where), samples.splits_at(where), (given,), suspect.margin, text)
