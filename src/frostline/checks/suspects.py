"""Likely wrong labels, by the rule of confident learning, slightly extended.

An image is suspect if another class is the most probable, and about as probable as for images with that label on
average (Northcutt, Jiang & Chuang, "Confident Learning", JAIR 2021). It is also suspect if its own class is no more
probable than for images of other classes. The probabilities must come from a model that did not see its label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from frostline.checks.findings import Finding
from frostline.checks.samples import Samples
from frostline.data.images import spread
from frostline.training.ridge import best_penalty, decompose, left_out_blocks

ABOUT = 0.9  # share of the usual probability; compared with 1, it finds one or two more of 12 swapped labels among 244
FEWEST = 3  # images of a class that are needed to judge one of them
SHARPNESS = torch.logspace(0, 2, 41)  # candidate factors from scores of the regression to logits
SHARPENING = 5_000_000  # most probabilities that are used to choose that factor


@dataclass(frozen=True)
class Suspect:
    """An image whose label may be wrong. given, suggested: classes. doubt: improbability of the given one, 0 … 1."""

    image: int
    given: int
    suggested: int
    doubt: float


@dataclass(frozen=True, eq=False)
class Said:
    """Cross-fitted predictions, reduced to what `suspects` needs instead of N × classes probabilities.

    given: probability of the image's own class, (N,). suggested: the most probable class, (N,). highest: its
    probability, (N,). sums: the sum of each class's probabilities over all images, (classes,).
    """

    given: np.ndarray
    suggested: np.ndarray
    highest: np.ndarray
    sums: np.ndarray


def said_of(blocks: Iterable[np.ndarray], targets: np.ndarray, classes: int) -> Said:
    """The summary of probabilities (B, classes), block by block. targets: (N,), the labels."""
    given, highest, sums = np.empty(len(targets)), np.empty(len(targets)), np.zeros(classes)
    suggested, done = np.empty(len(targets), np.int64), 0
    for block in blocks:
        here, rows = slice(done, done + len(block)), np.arange(len(block))
        given[here], suggested[here] = block[rows, targets[here]], block.argmax(1)
        highest[here] = block[rows, suggested[here]]
        sums, done = sums + block.sum(0), done + len(block)
    return Said(given, suggested, highest, sums)


def suspects(said: Said, targets: np.ndarray) -> list[Suspect]:
    """The images whose label is likely wrong, the least probable label first.

    said: cross-fitted predictions. targets: (N,), the labels.

    >>> sure, unsure = [0.9, 0.1], [0.6, 0.4]
    >>> p = np.array([sure, sure, unsure, [0.1, 0.9], [0.1, 0.9], sure])
    >>> labels = np.array([0, 0, 0, 1, 1, 1])
    >>> [(s.image, s.suggested) for s in suspects(said_of([p], labels, 2), labels)]
    [(5, 0)]
    """
    given, suggested, classes = said.given, said.suggested, len(said.sums)
    counts = np.bincount(targets, minlength=classes)
    own = np.bincount(targets, given, classes)
    usual = own / np.maximum(counts, 1)  # how probable a class is for its own images
    elsewhere = (said.sums - own) / np.maximum(len(targets) - counts, 1)  # and for others
    as_its_own = said.highest >= ABOUT * usual[suggested]
    known = (counts[targets] >= FEWEST) & (counts[suggested] >= FEWEST)
    wrong = known & (suggested != targets) & (as_its_own | (given <= elsewhere[targets]))
    order = np.flatnonzero(wrong)[np.argsort(given[wrong], kind="stable")]
    return [Suspect(int(i), int(targets[i]), int(suggested[i]), float(1 - given[i])) for i in order]


def left_out(samples: Samples) -> Said:
    """The prediction for each image by a head that was solved without it.

    This is the exact leave-one-out solution of the ridge regression in training/ridge.py. A factor turns its scores
    into probabilities; it is the factor of the highest likelihood.
    """
    features = samples.rows()
    assert features is not None  # noqa: S101
    targets, classes = np.asarray(samples.images.targets), len(samples.classes)
    ridge = decompose(features, classes)
    penalty = best_penalty(ridge)
    some = spread(len(samples), max(1, SHARPENING // classes))
    scores, labels = torch.cat(list(left_out_blocks(ridge, penalty, some))), torch.from_numpy(targets[some])
    losses = [float(functional.cross_entropy(scores * factor, labels)) for factor in SHARPNESS]
    sharpness = SHARPNESS[int(np.argmin(losses))]
    every = [scores] if len(some) == len(samples) else left_out_blocks(ridge, penalty)
    return said_of(((each * sharpness).softmax(1).numpy() for each in every), targets, classes)


def findings(samples: Samples, said: Said | None = None) -> Iterator[Finding]:
    """The likely wrong labels of images with one class each, by the other images or by the predictions `said`."""
    targets = np.asarray(samples.images.targets)
    if (np.bincount(targets) >= FEWEST).sum() < 2:  # no label can be judged, and 20,000 classes would take long
        return
    for suspect in suspects(said or left_out(samples), targets):
        given, suggested = samples.classes[suspect.given], samples.classes[suspect.suggested]
        where = [suspect.image]
        p = 100 * (1 - suspect.doubt)
        text = f"labelled {given}; the other images suggest {suggested} ({given} is {p:.1f} % probable)"
        yield Finding("label-error", samples.names(where), samples.splits_at(where), (given,), suspect.doubt, text)
