"""Labels that the rest of the data contradicts, by the rule of confident learning, a little widened.

An image is suspect where another class is the most probable, and about as probable as it is, on average, for the images
that have that label (Northcutt, Jiang & Chuang, "Confident Learning", JAIR 2021); or where its own class is
no more probable than it is for images of others. The probabilities must come from a model that did not see its label.
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

ABOUT = 0.9  # as probable as usual: of 12 swapped labels of 244 one or two more are found so than with 1
FEWEST = 3  # images of a class, of which the others know what one of them looks like
SHARPNESS = torch.logspace(0, 2, 41)  # what scores of the regression may be multiplied with to give logits
SHARPENING = 5_000_000  # probabilities by which that factor is chosen, at most


@dataclass(frozen=True)
class Suspect:
    """An image whose label may be wrong. given, suggested: classes. doubt: how improbable the given one is, 0 … 1."""

    image: int
    given: int
    suggested: int
    doubt: float


@dataclass(frozen=True, eq=False)
class Said:
    """What a model without each image says of it, as far as a suspicion needs it: all of it takes N × classes numbers.

    given: how probable the class is that the image has, (N,). suggested: the most probable one, (N,). highest: how
    probable that is, (N,). sums: of each class over all images, (classes,).
    """

    given: np.ndarray
    suggested: np.ndarray
    highest: np.ndarray
    sums: np.ndarray


def said_of(blocks: Iterable[np.ndarray], targets: np.ndarray, classes: int) -> Said:
    """The same of probabilities (B, classes), block by block. targets: (N,), the classes that are given."""
    given, highest, sums = np.empty(len(targets)), np.empty(len(targets)), np.zeros(classes)
    suggested, done = np.empty(len(targets), np.int64), 0
    for block in blocks:
        here, rows = slice(done, done + len(block)), np.arange(len(block))
        given[here], suggested[here] = block[rows, targets[here]], block.argmax(1)
        highest[here] = block[rows, suggested[here]]
        sums, done = sums + block.sum(0), done + len(block)
    return Said(given, suggested, highest, sums)


def suspects(said: Said, targets: np.ndarray) -> list[Suspect]:
    """The images whose label is likely wrong, the likeliest first: by how improbable their own class is.

    said: of each image by a model without it. targets: (N,), the classes that are given.

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
    """What the head that is solved without an image says of it.

    It is the ridge regression of training/ridge.py, left-one-out exactly; its scores become probabilities by the
    factor that makes them the likeliest.
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
    """The labels of images of one class each that all other images, or what is `said` of them, speak against."""
    targets = np.asarray(samples.images.targets)
    if (np.bincount(targets) >= FEWEST).sum() < 2:  # nothing can be said of any, and of 20,000 classes it takes long
        return
    for suspect in suspects(said or left_out(samples), targets):
        given, suggested = samples.classes[suspect.given], samples.classes[suspect.suggested]
        where = [suspect.image]
        p = 100 * (1 - suspect.doubt)
        text = f"labelled {given}; the other images say {suggested} ({given} is {p:.1f} % probable)"
        yield Finding("label-error", samples.names(where), samples.splits_at(where), (given,), suspect.doubt, text)
