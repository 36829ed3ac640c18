"""Least squares with a penalty for a whole path of penalties at once, and what each image gets from all the others.

One eigendecomposition serves every penalty (Golub, Heath & Wahba 1979). It also says what a fit without an image would
predict for it, exactly and without a second fit. All views of an image are left out together, or its own copies would
vouch for it: with the residuals e of its K views and their K × K block H of the hat matrix, those of a fit without them
are (I − H)⁻¹ e (Cook & Weisberg 1982, section 3.6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from frostline.data.images import spread
from frostline.errors import DataError, UsageError
from frostline.store.activations import Activations
from frostline.training.scale import BLOCK_BYTES, Scale, blocks_of, scale_of

FEWEST, CHOOSING = 1_000, 4_000_000  # images on which a penalty is chosen, at least; and those times the classes
TOGETHER = (
    4_000_000  # coefficients of all penalties that are multiplied with at once: one by one takes ten times as long
)
PENALTIES = tuple(10 ** (exponent / 4) for exponent in range(-8, 17))  # 0.01 … 10,000, the weakest comes first


@dataclass(frozen=True, eq=False)
class Ridge:
    """The regressions of class indicators on standardised features, for every penalty; all of it in float64.

    features: the rows (D,) that were read. weights: how much a row of each class counts, (classes,).
    scale: of all rows, so a left-out image has its small part in it. total: the weights of all rows, summed.
    basis: the eigenvectors, (D, r), r = min(D, rows). eigenvalues: (r,). products: basis' X' T, (r, classes).
    mean: of the rows in the basis, (r,). rates: the mean targets, (classes,).
    """

    features: Activations
    weights: Tensor
    scale: Scale
    total: float
    basis: Tensor
    eigenvalues: Tensor
    products: Tensor
    mean: Tensor
    rates: Tensor


def decompose(features: Activations, classes: int, weight: Tensor | None = None) -> Ridge:
    """What all ridge regressions on these rows (D,) have in common.

        ridge = decompose(activations(lower, images, Views(4)), classes=10)
        weight, bias = solution(ridge, best_penalty(ridge))

    Class numbers become indicators, 1 for the class of an image and 0 for the others; several labels stay as they are.
    weight: how much each class counts, (classes,). Rows are read block by block, but all at once where they are fewer
    than features: then they are turned into their own span first, and the smaller of both sides is decomposed.

    Raises UsageError for no images, masks, targets beyond `classes`, weights that are negative, not finite, all 0, or
    of several labels, where each label would need a decomposition of its own; DataError for features that are no
    finite numbers.
    """
    if not len(features):
        raise UsageError("there are no images to solve a head on")
    weights = _checked(features, classes, weight)
    features = features.in_memory()
    width = features[0][0].numel()
    scale = scale_of(blocks_of(features, width))
    if not bool(scale.mean.isfinite().all() and scale.deviation.isfinite().all()):
        raise DataError("some features are no finite numbers; check the weights of the backbone")
    span = None
    if len(features) < width:
        rows = torch.cat([x for x, _, _ in rows_of(features, scale, classes, weights)])
        span = torch.linalg.qr(rows.T)[0]
    gram, products, mean, rates, total = _sums(features, scale, classes, weights, span)
    eigenvalues, vectors = torch.linalg.eigh(gram)
    basis = vectors if span is None else span @ vectors
    inside = vectors.T @ products, vectors.T @ mean
    return Ridge(features, weights, scale, total, basis, eigenvalues.clamp(min=0), *inside, rates)


def solution(ridge: Ridge, penalty: float) -> tuple[Tensor, Tensor]:
    """The weight (classes, D) and bias (classes,) that features as they are stored are multiplied with.

    They have the least mean squared error + penalty × |weight of standardised features|², the bias is free.
    Raises UsageError for a penalty that is not above 0.
    """
    coefficients = ridge.products * shrunk(ridge, penalty)[:, None]
    weight = (ridge.basis @ coefficients / ridge.scale.deviation.double()[:, None]).T
    bias = ridge.rates - ridge.mean @ coefficients - weight @ ridge.scale.mean.double()
    return weight, bias


def left_out(ridge: Ridge, penalties: Sequence[float]) -> Tensor:
    """What the fit without an image says of each of its views: (penalties, rows, classes), of float64.

    Raises UsageError for a penalty that is not above 0, and where without an image nothing is left that counts.
    """
    return torch.cat([predicted for predicted, _ in _left_out(ridge, penalties)], dim=1)


def left_out_blocks(ridge: Ridge, penalty: float, images: np.ndarray | None = None) -> Iterator[Tensor]:
    """The same for one penalty, some rows (B, classes) at a time: of many classes all of them take gigabytes.

    images: the numbers of those that are asked about; None for all.
    """
    for predicted, _ in _left_out(ridge, [penalty], images):
        yield predicted[0]


def left_out_errors(ridge: Ridge, penalties: Sequence[float], images: np.ndarray | None = None) -> Tensor:
    """The mean squared error of `left_out` for each penalty, (penalties,); rows count as their classes do.

    Nothing is kept but the sums, so it serves rows that would not fit into memory. images: as in `left_out_blocks`.
    Raises as `left_out` does.
    """
    errors, total = torch.zeros(len(penalties), dtype=torch.float64), 0.0
    for predicted, (targets, weights) in _left_out(ridge, penalties, images):
        errors += ((predicted - targets) ** 2 * weights[:, None]).sum((1, 2))
        total += float(weights.sum())
    return errors / total if total else errors


def best_left_out(ridge: Ridge) -> tuple[float, Tensor]:
    """The one of PENALTIES with the least error on left-out images, and the class that each row, (rows,), gets by it.

    Raises as `left_out` does.
    """
    penalty = best_penalty(ridge)
    return penalty, torch.cat([predicted.argmax(1) for predicted in left_out_blocks(ridge, penalty)])


def best_penalty(ridge: Ridge) -> float:
    """Of PENALTIES the one with the least error on left-out images; where images and classes are many, on some of them.

    A few thousand tell it as well as all do, and all would take minutes of a thousand classes.
    """
    count, most = len(ridge.features.images), max(FEWEST, CHOOSING // len(ridge.rates))
    return PENALTIES[int(left_out_errors(ridge, PENALTIES, spread(count, most) if count > most else None).argmin())]


def _checked(features: Activations, classes: int, weight: Tensor | None) -> Tensor:
    """The weights of the classes, (classes,) of float64, where targets and weights are such that they can be used."""
    targets = features.targets(torch.arange(1))
    if targets.ndim > 2:
        raise UsageError("masks have no head that can be solved; give images with class numbers or several labels")
    several = targets.ndim == 2
    most = targets.shape[1] if several else 1 + int(features.targets(torch.arange(len(features))).max())
    if most > classes or (several and most != classes):
        raise UsageError(f"the targets are of {most} classes and classes is {classes}; they must agree")
    if weight is None:
        return torch.ones(classes, dtype=torch.float64)
    if several:
        raise UsageError("ridge takes no class weights of several labels: each label would need its own decomposition")
    fits = weight.shape == (classes,) and bool((weight.isfinite() & (weight >= 0)).all()) and bool(weight.any())
    if not fits:
        raise UsageError(f"the class weights are {weight.tolist()}; give {classes} of 0 or more, not all of them 0")
    return weight.double()


def rows_of(
    features: Activations, scale: Scale, classes: int, weights: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Standardised rows (B, D), targets (B, classes) and weights (B,), all views of an image in one block."""
    mean, deviation = scale.mean.double(), scale.deviation.double()
    images = max(1, BLOCK_BYTES // (8 * len(mean) * features.views))
    for numbers in torch.arange(len(features)).split(images * features.views):
        targets = features.targets(numbers)
        indicators = functional.one_hot(targets, classes) if targets.ndim == 1 else targets
        each = weights[targets] if targets.ndim == 1 else torch.ones(len(numbers), dtype=torch.float64)
        yield (features.fetch(numbers).flatten(1).double() - mean) / deviation, indicators.double(), each


def _sums(
    features: Activations, scale: Scale, classes: int, weights: Tensor, span: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """The weighted scatter (r, r), its products with the targets (r, classes), means of both, and the total weight."""
    gram, rows, targets, total = (torch.zeros((), dtype=torch.float64) for _ in range(4))
    by_class = torch.zeros(classes, len(scale.mean) if span is None else span.shape[1], dtype=torch.float64)
    for x, t, w in rows_of(features, scale, classes, weights):
        x = x if span is None else x @ span
        weighted = x * w[:, None]
        row, label = t.nonzero(as_tuple=True)  # few of many classes are there, and all of those are 1
        by_class.index_add_(0, label, weighted[row])
        gram, rows = gram + weighted.T @ x, rows + weighted.sum(0)
        targets, total = targets + w @ t, total + w.sum()
    if not float(total):
        raise UsageError("all images are of classes that count for nothing; give one of them a weight above 0")
    mean, rates = rows / total, targets / total
    gram, products = gram - total * mean.outer(mean), by_class.T - total * mean.outer(rates)
    return gram, products, mean, rates, float(total)


def shrunk(ridge: Ridge, penalty: float) -> Tensor:
    """The inverse of the penalised scatter along the basis, (r,). Raises UsageError for a penalty not above 0."""
    if not 0 < penalty < float("inf"):
        raise UsageError(f"the penalty is {penalty}; it must be above 0 and finite")
    return 1 / (ridge.eigenvalues + ridge.total * penalty)


def _solutions(ridge: Ridge, path: Tensor) -> Callable[[Tensor], Iterable[Tensor]]:
    """What gives, of rows (B, r), the scores (B, classes) of each penalty; those of few classes in one product."""
    if path.numel() * len(ridge.rates) > TOGETHER:
        return lambda x: (x @ (ridge.products * factors[:, None]) for factors in path)
    together = (ridge.products[:, None] * path.T[:, :, None]).flatten(1)
    return lambda x: (x @ together).view(len(x), len(path), -1).unbind(1)


def _left_out(
    ridge: Ridge, penalties: Sequence[float], images: np.ndarray | None = None
) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor]]]:
    """Predictions (penalties, B, classes) without the image of each row; targets (B, classes) and weights (B,)."""
    views, classes = ridge.features.views, len(ridge.rates)
    path = torch.stack([shrunk(ridge, penalty) for penalty in penalties])
    same = torch.eye(views, dtype=torch.float64)
    features = ridge.features if images is None else ridge.features.some(images)
    solve = _solutions(ridge, path)
    for x, targets, weights in rows_of(features, ridge.scale, classes, ridge.weights):
        if float(ridge.total - views * weights.max()) <= 1e-12 * ridge.total:
            raise UsageError("without one image nothing is left that counts; leaving out takes two images at least")
        x = x @ ridge.basis - ridge.mean
        by_image, each = x.reshape(-1, views, x.shape[1]), weights[::views, None, None]
        pairs = by_image[:, :, None] * by_image[:, None]  # (images, K, K, r): one product serves all penalties
        hats = (pairs @ path.T).movedim(3, 0)
        predictions = torch.empty(len(path), *targets.shape, dtype=torch.float64)
        for said, hat, predicted in zip(solve(x), hats, predictions, strict=True):
            residuals = (targets - ridge.rates - said).view(-1, views, classes)
            rest = same - each * (hat + 1 / ridge.total)
            without = residuals / rest if views == 1 else torch.linalg.solve(rest, residuals)
            torch.sub(targets, without.reshape(targets.shape), out=predicted)
        yield predictions, (targets, weights)
