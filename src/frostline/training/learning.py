"""Will more images help? How the solved head does with part of the training images, and what follows for more of them.

The share of wrong answers falls with the number of images n about as a + b / n^c does (Hestness et al., "Deep Learning
Scaling is Predictable, Empirically", 2017). A few points do not tell a, b and c, so the forecast is not made by the
best of them: every curve speaks, as loud as it agrees with what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from frostline.data.split import stratified, whole_groups
from frostline.errors import UsageError
from frostline.store.activations import Activations
from frostline.training.ridge import Ridge, best_left_out, best_penalty, decompose, solution

SHARES = (0.1, 0.2, 0.4, 0.7, 1.0)  # of the training images
REPEATS = (4, 4, 3, 2, 1)  # parts that are drawn of each share,
MANY = 5_000  # but one of so many images: it varies little
FEWEST = 3  # images a class, on average, for a part to count
ENDS = 60  # values of a, from 0 to the least error, denser near 0
SLOPES = np.linspace(0.05, 1.5, 60)  # values of c,
USUAL, SPREAD = 0.5, 0.25  # and what they are about: exponents that are reported for images lie between 0.2 and 0.8
MISFIT = 0.05  # by what share of itself an error lies off any such curve
SHARED = 0.5  # how much of the chance in an error differs from point to point: all are measured on much the same images
DRAWS = 8_000


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Accuracies of the solved head by the number of its training images.

    sizes: (K,), ascending; the last one is all of them. accuracy: (K,), 0 … 1. held_out: (K,), how many images measured
    it in each part. recall, present: the same of each class, (K, classes).
    """

    sizes: np.ndarray
    accuracy: np.ndarray
    held_out: np.ndarray
    recall: np.ndarray
    present: np.ndarray


def learning_curve(
    train: Activations,
    classes: int,
    held_out: Activations | None = None,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    pooled: bool = True,
    whole: tuple[Ridge, float, Tensor] | None = None,
) -> LearningCurve | None:
    """Measure the head on stratified parts of the training images; None where they are too few for three sizes.

        curve = learning_curve(activations(lower, data.train), len(data.classes), activations(lower, data.valid))
        low, middle, high = forecast(curve, 2 * len(data.train))

    Each part is measured on the training images that are not in it and on those held out; the head on all training
    images by what it says of each without it; in the class shares of the training images, whatever is left over. It is
    ridge regression, whose penalty is chosen by leaving images out: solved in a fraction of a second where the logistic
    head takes seconds. Rows (D,) of one view, one class an image. Of 5,000 images and more each part is drawn once.
    groups: of each training image, which ones belong together: parts are whole groups then.
    pooled: False where held-out images are others by nature: they measure alone then, and where there are groups.
    whole: for all training images what `decompose` gives, and of it `best_left_out`, where that is at hand.
    """
    targets = _targets(train)
    names, alone = train.images.names, groups is not None or not pooled
    if alone and (held_out is None or not len(held_out)):
        return None
    points: list[tuple[int, np.ndarray, np.ndarray, int]] = []
    for share, repeats in zip(SHARES, REPEATS, strict=True):
        count = round(share * len(targets))
        if count < FEWEST * classes:
            continue
        if share == 1:
            ridge, penalty, said = whole or _solved(train, classes)
            own = targets, said.numpy() == targets
            measured = [*([] if alone else [own]), *_hits(held_out, *solution(ridge, penalty))]
            parts = [_counted(measured, classes)]
        else:
            drawn = [
                stratified(targets, names, share, seed + i)
                if groups is None
                else whole_groups(targets, groups, share, seed + i)
                for i in range(repeats if count < MANY else 1)
            ]
            drawn = [part for part in drawn if part.any()]
            if not drawn:
                continue
            count = round(float(np.mean([part.sum() for part in drawn])))
            parts = [_of_part(train, part, classes, held_out, alone=alone) for part in drawn]
        right, of = (np.sum(values, 0) for values in zip(*parts, strict=True))
        points.append((count, right, of, len(parts)))
    if len(points) < 3:
        return None
    sizes, rights, ofs, times = (np.array(values) for values in zip(*points, strict=True))
    recall = rights / np.maximum(ofs, 1)
    shares = (ofs > 0).all(0) * np.bincount(_labels_of(held_out) if alone else targets, minlength=classes)
    accuracy = recall @ (shares / max(1, shares.sum()))  # parts leave other shares of the classes to be measured on
    return LearningCurve(sizes, accuracy, ofs.sum(1) / times, recall, ofs / times[:, None])


def forecast(
    curve: LearningCurve, images: int, band: float = 0.8, label: int | None = None
) -> tuple[float, float, float]:
    """The accuracy on new images that so many training images would give: low, middle, high, each 0 … 1.

    band: how likely the value lies between low and high. label: the number of a class; then its recall is told.
    Raises UsageError for fewer images than one, and a class without held-out images.
    """
    if images < 1:
        raise UsageError(f"{images} training images; a forecast is for one or more")
    share = 1 - (curve.accuracy if label is None else curve.recall[:, label])
    counts = curve.held_out if label is None else curve.present[:, label]
    if not counts.all():
        raise UsageError(f"no held-out image has class {label}; nothing is known of its recall")
    errors = np.maximum(share, 0.5 / counts)  # none wrong of n is not never wrong
    chance = np.sqrt(errors * (1 - errors).clip(min=0.5 / counts) / counts)
    noise = np.hypot(SHARED * chance, MISFIT * errors)
    ends = (errors.min() * np.linspace(0, 1, ENDS) ** 2)[:, None]
    shape, weight = (curve.sizes / curve.sizes[-1]) ** -SLOPES[:, None], noise**-2.0  # (slopes, K)
    over = (errors * weight * shape).sum(1) - ends * (weight * shape).sum(1)  # (ends, slopes)
    factor = (over / (weight * shape**2).sum(1)).clip(min=0)
    off = ((errors - ends[..., None] - factor[..., None] * shape) / noise) ** 2
    plausible = -off.sum(2) / 2 - ((SLOPES - USUAL) / SPREAD) ** 2 / 2
    likely = np.exp(plausible - plausible.max()).ravel()
    expected = (ends + factor * (images / curve.sizes[-1]) ** -SLOPES).ravel()
    drawn, normal = np.random.default_rng(0), np.random.default_rng(1)
    error = drawn.choice(expected, DRAWS, p=likely / likely.sum())
    off_by = np.hypot(chance[-1] / errors[-1], MISFIT)  # what all points may be wrong by, and the value itself
    error = error * np.exp(off_by * normal.standard_normal(DRAWS))
    high, middle, low = np.quantile(error, [(1 - band) / 2, 0.5, (1 + band) / 2]).clip(0, 1)
    return 1 - float(low), 1 - float(middle), 1 - float(high)


Hits = tuple[np.ndarray, np.ndarray]  # of each class how many were right, and how many there were


def _of_part(train: Activations, part: np.ndarray, classes: int, held_out: Activations | None, *, alone: bool) -> Hits:
    ridge = decompose(train.some(np.flatnonzero(part)), classes)
    weight, bias = solution(ridge, best_penalty(ridge))
    others = None if alone else train.some(np.flatnonzero(~part))
    return _counted([*_hits(others, weight, bias), *_hits(held_out, weight, bias)], classes)


def _solved(train: Activations, classes: int) -> tuple[Ridge, float, Tensor]:
    ridge = decompose(train, classes)
    return ridge, *best_left_out(ridge)


def _hits(rows: Activations | None, weight: Tensor, bias: Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    """The class of each image, and whether a head says so."""
    batches = rows.batches() if rows is not None else ()
    return [(y.numpy(), ((x.flatten(1).double() @ weight.T + bias).argmax(1) == y).numpy()) for x, y in batches]


def _counted(hits: list[tuple[np.ndarray, np.ndarray]], classes: int) -> Hits:
    labels, right = (np.concatenate(values) for values in zip(*hits, strict=True))
    return np.bincount(labels[right], minlength=classes), np.bincount(labels, minlength=classes)


def _labels_of(rows: Activations | None) -> np.ndarray:
    return _targets(rows) if rows is not None else np.empty(0, np.int64)


def _targets(features: Activations) -> np.ndarray:
    targets = features.images.targets
    if not isinstance(targets, np.ndarray) or targets.ndim > 1:
        raise UsageError("a learning curve is of images that have one class each")
    if features.views != 1:
        raise UsageError(f"the rows are of {features.views} views; a learning curve takes one of each image")
    return targets
