"""Would more images help? The accuracy of the solved head on parts of the training images, extrapolated to more.

The error falls with the number of images n about as a + b / n^c (Hestness et al., "Deep Learning
Scaling is Predictable, Empirically", 2017). A few points do not determine a, b and c, so the forecast does not use the
best fit alone: all curves count, each weighted by its fit to the measurements.
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
REPEATS = (4, 4, 3, 2, 1)  # parts drawn per share,
MANY = 5_000  # but only one from this many images on: it varies little
FEWEST = 3  # images per class, on average, for a part to count
ENDS = 60  # values of a, from 0 to the lowest error, denser near 0
SLOPES = np.linspace(0.05, 1.5, 60)  # values of c,
USUAL, SPREAD = 0.5, 0.25  # and their prior: reported exponents for images lie between 0.2 and 0.8
MISFIT = 0.05  # relative distance of an error from any such curve
SHARED = 0.5  # share of an error's noise that differs between points: all use much the same images
DRAWS = 8_000


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Accuracies of the solved head by the number of its training images.

    sizes: (K,), ascending; the last one is all of them. accuracy: (K,), 0 … 1. held_out: (K,), the number of images
    that measured each. recall, present: the same per class, (K, classes).
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
    """Measure the head on stratified parts of the training images; None if they are too few for three sizes.

        curve = learning_curve(activations(lower, data.train), len(data.classes), activations(lower, data.valid))
        low, middle, high = forecast(curve, 2 * len(data.train))

    Each part is measured on the other training images and on the held-out images; the head on all training images by
    leave-one-out predictions. Accuracies are weighted by the class shares of the training images. The head is
    ridge regression with a leave-one-out penalty: solved in a fraction of a second, where the logistic
    head takes seconds. Rows (D,) of one view, one class per image. From 5,000 images on each part is drawn once.
    groups: the group of each training image, if images belong together: parts are then whole groups.
    pooled: False if held-out images differ in nature: then they measure alone, as they do with groups.
    whole: the results of `decompose` and `best_left_out` for all training images, if available.
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
    accuracy = recall @ (shares / max(1, shares.sum()))  # the images left for measuring have other class shares
    return LearningCurve(sizes, accuracy, ofs.sum(1) / times, recall, ofs / times[:, None])


def forecast(
    curve: LearningCurve, images: int, band: float = 0.8, label: int | None = None
) -> tuple[float, float, float]:
    """The expected accuracy on new images with `images` training images: low, middle, high, each 0 … 1.

    band: the probability that the value lies between low and high. label: a class number, for its recall instead.
    Raises UsageError for fewer than one image, and for a class without held-out images.
    """
    if images < 1:
        raise UsageError(f"images is {images}; a forecast needs one or more")
    share = 1 - (curve.accuracy if label is None else curve.recall[:, label])
    counts = curve.held_out if label is None else curve.present[:, label]
    if not counts.all():
        raise UsageError(f"no held-out image has class {label}, so its recall is unknown; choose another class")
    errors = np.maximum(share, 0.5 / counts)  # zero errors in n images do not mean a zero error rate
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
    off_by = np.hypot(chance[-1] / errors[-1], MISFIT)  # error common to all points, and of the value itself
    error = error * np.exp(off_by * normal.standard_normal(DRAWS))
    high, middle, low = np.quantile(error, [(1 - band) / 2, 0.5, (1 + band) / 2]).clip(0, 1)
    return 1 - float(low), 1 - float(middle), 1 - float(high)


Hits = tuple[np.ndarray, np.ndarray]  # per class: the number of right images, and of all images


def _of_part(train: Activations, part: np.ndarray, classes: int, held_out: Activations | None, *, alone: bool) -> Hits:
    ridge = decompose(train.some(np.flatnonzero(part)), classes)
    weight, bias = solution(ridge, best_penalty(ridge))
    others = None if alone else train.some(np.flatnonzero(~part))
    return _counted([*_hits(others, weight, bias), *_hits(held_out, weight, bias)], classes)


def _solved(train: Activations, classes: int) -> tuple[Ridge, float, Tensor]:
    ridge = decompose(train, classes)
    return ridge, *best_left_out(ridge)


def _hits(rows: Activations | None, weight: Tensor, bias: Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    """The class of each image, and whether a head predicts it."""
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
        raise UsageError("a learning curve needs exactly one class per image")
    if features.views != 1:
        raise UsageError(f"the rows have {features.views} views per image; a learning curve needs one")
    return targets
