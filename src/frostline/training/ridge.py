"""Ridge regression for a whole path of penalties at once, and leave-one-out predictions for each image.

One eigendecomposition serves every penalty (Golub, Heath & Wahba 1979). It also gives the exact prediction of a fit
without an image for that image, without a second fit. All views of an image are left out together, or its own copies
would vouch for it: with the residuals e of its K views and their K × K block H of the hat matrix, the residuals of a
fit without them are (I − H)⁻¹ e (Cook & Weisberg 1982, section 3.6).
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
from frostline.training.moments import Moments, moments_of
from frostline.training.scale import BLOCK_BYTES, Scale, blocks_of, scale_of

FEWEST, CHOOSING = 1_000, 4_000_000  # minimum of images to choose a penalty on; and of images × classes
TOGETHER = 4_000_000  # coefficients of all penalties in one product: one by one takes ten times as long
PENALTIES = tuple(10 ** (exponent / 4) for exponent in range(-8, 17))  # 0.01 … 10,000, weakest first


@dataclass(frozen=True, eq=False)
class Ridge:
    """The regressions of class indicators on standardised features, for every penalty; all in float64.

    features: the rows (D,). weights: the weight of a row of each class, (classes,).
    scale: of all rows, so a left-out image has a small influence on it. total: the summed weights of all rows.
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
    """The common part of all ridge regressions on these rows (D,).

        ridge = decompose(activations(lower, images, Views(4)), classes=10)
        weight, bias = solution(ridge, best_penalty(ridge))

    Class numbers become indicators, 1 for the class of an image and 0 for the others; several labels are used directly.
    weight: per class, (classes,). Rows are read block by block, but all at once if they are fewer
    than features: then they are first rotated into their own span, so the smaller side is decomposed.

    Raises UsageError for no images, masks, targets beyond `classes`, weights that are negative, not finite or all 0,
    and weights for several labels, where each label would need its own decomposition; DataError for features that are
    not finite.
    """
    if not len(features):
        raise UsageError("solving a head needs at least one image; there are none")
    weights = _checked(features, classes, weight)
    features = features.in_memory()
    width = features[0][0].numel()
    scale = scale_of(blocks_of(features, width))
    if not bool(scale.mean.isfinite().all() and scale.deviation.isfinite().all()):
        raise DataError("some features are not finite numbers; check the weights of the backbone")
    span = None
    if len(features) < width:
        rows = torch.cat([x for x, _, _ in rows_of(features, scale, classes, weights)])
        span = torch.linalg.qr(rows.T)[0]
    sums = _sums(features, scale, classes, weights, span)
    eigenvalues, vectors = torch.linalg.eigh(sums.scatter)
    basis = vectors if span is None else span @ vectors
    inside = vectors.T @ sums.products.T, vectors.T @ sums.mean
    rates = sums.counts / sums.total
    return Ridge(features, weights, scale, sums.total, basis, eigenvalues.clamp(min=0), *inside, rates)


def solution(ridge: Ridge, penalty: float) -> tuple[Tensor, Tensor]:
    """The weight (classes, D) and bias (classes,) for features as stored.

    They minimise mean squared error + penalty × |weight of standardised features|²; the bias has no penalty.
    Raises UsageError for a penalty that is not above 0.
    """
    coefficients = ridge.products * shrunk(ridge, penalty)[:, None]
    weight = (ridge.basis @ coefficients / ridge.scale.deviation.double()[:, None]).T
    bias = ridge.rates - ridge.mean @ coefficients - weight @ ridge.scale.mean.double()
    return weight, bias


def left_out(ridge: Ridge, penalties: Sequence[float]) -> Tensor:
    """The leave-one-out predictions for each row: (penalties, rows, classes), of float64.

    Raises UsageError for a penalty that is not above 0, and if no weight is left without some image.
    """
    return torch.cat([predicted for predicted, _ in _left_out(ridge, penalties)], dim=1)


def left_out_blocks(ridge: Ridge, penalty: float, images: np.ndarray | None = None) -> Iterator[Tensor]:
    """The same for one penalty, some rows (B, classes) at a time: with many classes all rows take gigabytes.

    images: the image numbers to predict; None for all.
    """
    for predicted, _ in _left_out(ridge, [penalty], images):
        yield predicted[0]


def left_out_errors(ridge: Ridge, penalties: Sequence[float], images: np.ndarray | None = None) -> Tensor:
    """The mean squared error of `left_out` for each penalty, (penalties,), weighted by class.

    Only sums are kept, so it also works for rows that do not fit into memory. images: as in `left_out_blocks`.
    Raises as `left_out` does.
    """
    errors, total = torch.zeros(len(penalties), dtype=torch.float64), 0.0
    for predicted, (targets, weights) in _left_out(ridge, penalties, images):
        errors += ((predicted - targets) ** 2 * weights[:, None]).sum((1, 2))
        total += float(weights.sum())
    return errors / total if total else errors


def best_left_out(ridge: Ridge) -> tuple[float, Tensor]:
    """The one of PENALTIES with the lowest leave-one-out error, and the class it predicts for each row, (rows,).

    Raises as `left_out` does.
    """
    penalty = best_penalty(ridge)
    return penalty, torch.cat([predicted.argmax(1) for predicted in left_out_blocks(ridge, penalty)])


def best_penalty(ridge: Ridge) -> float:
    """The one of PENALTIES with the lowest leave-one-out error; for many images and classes, measured on some of them.

    A few thousand images are enough, and all would take minutes with a thousand classes.
    """
    count, most = len(ridge.features.images), max(FEWEST, CHOOSING // len(ridge.rates))
    return PENALTIES[int(left_out_errors(ridge, PENALTIES, spread(count, most) if count > most else None).argmin())]


def _checked(features: Activations, classes: int, weight: Tensor | None) -> Tensor:
    """The weights of the classes, (classes,) of float64, after checking targets and weights."""
    targets = features.targets(torch.arange(1))
    if targets.ndim > 2:
        raise UsageError("a head for masks cannot be solved; give images with class numbers or several labels")
    several = targets.ndim == 2
    most = targets.shape[1] if several else 1 + int(features.targets(torch.arange(len(features))).max())
    if most > classes or (several and most != classes):
        raise UsageError(f"the targets have {most} classes, but classes is {classes}; they must agree")
    if weight is None:
        return torch.ones(classes, dtype=torch.float64)
    if several:
        raise UsageError(
            "ridge takes no class weights for several labels, which would need one decomposition each; omit weight"
        )
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


def _sums(features: Activations, scale: Scale, classes: int, weights: Tensor, span: Tensor | None) -> Moments:
    """The moments of standardised rows, in their span if one is given."""
    blocks = rows_of(features, scale, classes, weights)
    width = len(scale.mean) if span is None else span.shape[1]
    found = moments_of(((x if span is None else x @ span, t, w) for x, t, w in blocks), width, classes)
    if not found.total:
        raise UsageError("the classes of all images have weight 0; give one of them a weight above 0")
    return found


def shrunk(ridge: Ridge, penalty: float) -> Tensor:
    """The inverse of the penalised scatter along the basis, (r,). Raises UsageError for a penalty not above 0."""
    if not 0 < penalty < float("inf"):
        raise UsageError(f"the penalty is {penalty}; it must be above 0 and finite")
    return 1 / (ridge.eigenvalues + ridge.total * penalty)


def _solutions(ridge: Ridge, path: Tensor) -> Callable[[Tensor], Iterable[Tensor]]:
    """A function from rows (B, r) to scores (B, classes) per penalty; with few classes it is one product."""
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
            raise UsageError("leaving out an image leaves no weight; leave-one-out needs at least two images")
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
