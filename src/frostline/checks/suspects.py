"""Labels that the rest of the data contradicts, by the rule of confident learning, a little widened.

An image is suspect where another class is the most probable, and about as probable as it is, on average, for the images
that have that label (Northcutt, Jiang & Chuang, "Confident Learning", JAIR 2021); or where its own class is
no more probable than it is for images of others. The probabilities must come from a model that did not see its label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from frostline.checks.findings import Finding
from frostline.checks.samples import Samples
from frostline.training.ridge import best_penalty, decompose, left_out

ABOUT = 0.9  # as probable as usual: of 12 swapped labels of 244 one or two more are found so than with 1
FEWEST = 3  # images of a class, of which the others know what one of them looks like
SHARPNESS = torch.logspace(0, 2, 41)  # what scores of the regression may be multiplied with to give logits


@dataclass(frozen=True)
class Suspect:
    """An image whose label may be wrong. given, suggested: classes. doubt: how improbable the given one is, 0 … 1."""

    image: int
    given: int
    suggested: int
    doubt: float


def suspects(probabilities: np.ndarray, targets: np.ndarray) -> list[Suspect]:
    """The images whose label is likely wrong, the likeliest first: by how improbable their own class is.

    probabilities: (N, classes), of each image by a model without it. targets: (N,), the classes that are given.

    >>> sure, unsure = [0.9, 0.1], [0.6, 0.4]
    >>> p = np.array([sure, sure, unsure, [0.1, 0.9], [0.1, 0.9], sure])
    >>> [(s.image, s.suggested) for s in suspects(p, np.array([0, 0, 0, 1, 1, 1]))]
    [(5, 0)]
    """
    classes, rows = probabilities.shape[1], np.arange(len(targets))
    given, suggested = probabilities[rows, targets], probabilities.argmax(1)
    counts = np.bincount(targets, minlength=classes)
    own = np.bincount(targets, given, classes)
    usual = own / np.maximum(counts, 1)  # how probable a class is for its own images
    elsewhere = (probabilities.sum(0) - own) / np.maximum(len(targets) - counts, 1)  # and for others
    as_its_own = probabilities[rows, suggested] >= ABOUT * usual[suggested]
    known = (counts[targets] >= FEWEST) & (counts[suggested] >= FEWEST)
    wrong = known & (suggested != targets) & (as_its_own | (given <= elsewhere[targets]))
    order = np.flatnonzero(wrong)[np.argsort(given[wrong], kind="stable")]
    return [Suspect(int(i), int(targets[i]), int(suggested[i]), float(1 - given[i])) for i in order]


def left_out_probabilities(samples: Samples) -> np.ndarray:
    """What the head that is solved without an image says of it, for each: (N, classes), rows sum to 1.

    It is the ridge regression of training/ridge.py, left-one-out exactly; its scores become probabilities by the
    factor that makes them the likeliest.
    """
    features = samples.rows()
    assert features is not None  # noqa: S101
    targets = torch.from_numpy(np.asarray(samples.images.targets))
    ridge = decompose(features, len(samples.classes))
    scores = left_out(ridge, [best_penalty(ridge)])[0]
    losses = torch.stack([functional.cross_entropy(scores * factor, targets) for factor in SHARPNESS])
    probabilities: Tensor = (scores * SHARPNESS[int(losses.argmin())]).softmax(1)
    return probabilities.numpy()


def findings(samples: Samples, probabilities: np.ndarray) -> Iterator[Finding]:
    """The labels of images of one class each that speak against `probabilities`, as `suspects` takes them."""
    for suspect in suspects(probabilities, np.asarray(samples.images.targets)):
        given, suggested = samples.classes[suspect.given], samples.classes[suspect.suggested]
        where = [suspect.image]
        p = 100 * (1 - suspect.doubt)
        text = f"labelled {given}; the other images say {suggested} ({given} is {p:.1f} % probable)"
        yield Finding("label-error", samples.names(where), samples.splits_at(where), (given,), suspect.doubt, text)
