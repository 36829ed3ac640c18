"""The worth of each training image: how much worse the solved head would do on held-out images without it.

It is exact for every image, from the one decomposition of ridge.py: leaving out an image with all its views changes the
coefficients by a matrix of rank K (Cook & Weisberg 1982), and the effect on the held-out images follows from
their sums and scatter alone. So nothing is refitted, and no matrix of training × held-out images is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from frostline.errors import UsageError
from frostline.store.activations import Activations
from frostline.training.ridge import Ridge, rows_of, shrunk


def worth_of(ridge: Ridge, penalty: float, held_out: Activations) -> Tensor:
    """For each training image, the mean squared error on held-out images without it minus with it: (images,) of
    float64.

        ridge = decompose(activations(lower, data.train, Views(4)), classes=10)
        worth = worth_of(ridge, 0.1, activations(lower, data.valid))
        most_harmful = worth.argsort()[:20]

    Above 0 the image helps; below 0 it harms, so predictions would improve without it. The error is the squared
    distance from the class indicators, summed over classes and weighted by class as in `ridge`. Penalty
    and scale of the features are those of all images. held_out: rows of one view; they are read once.

    Raises UsageError without held-out images, and for a penalty that is not above 0.
    """
    if not len(held_out):
        raise UsageError("there are no held-out images; the worth of an image is measured on them")
    factors, total = shrunk(ridge, penalty), ridge.total
    residual_sums, scatter = _held_out(ridge, factors, held_out)
    worth = torch.empty(len(ridge.features.images), dtype=torch.float64)
    views, done = ridge.features.views, 0
    same = torch.eye(views, dtype=torch.float64)
    for x, targets, weights in rows_of(ridge.features, ridge.scale, len(ridge.rates), ridge.weights):
        x = x @ ridge.basis - ridge.mean
        residuals = targets - ridge.rates - x @ (ridge.products * factors[:, None])
        by_image, each = x.reshape(-1, views, x.shape[1]), weights[::views, None, None]
        hat = each * (by_image * factors @ by_image.transpose(1, 2) + 1 / total)
        without = each * torch.linalg.solve(same - hat, residuals.reshape(-1, views, residuals.shape[1]))
        pull = torch.cat([torch.full((*by_image.shape[:2], 1), 1 / total), by_image * factors], 2)  # (B, K, 1 + r)
        linear = 2 * ((pull @ residual_sums) * without).sum((1, 2))
        square = ((pull @ scatter @ pull.transpose(1, 2)) * (without @ without.transpose(1, 2))).sum((1, 2))
        worth[done : done + len(by_image)] = (linear + square) / len(held_out)
        done += len(by_image)
    return worth


def _held_out(ridge: Ridge, factors: Tensor, held_out: Activations) -> tuple[Tensor, Tensor]:
    """For held-out rows (1, z): their products with the residuals (1 + r, classes), and the scatter (1 + r, 1 + r)."""
    products = scatter = torch.zeros((), dtype=torch.float64)
    for x, targets, weights in rows_of(held_out, ridge.scale, len(ridge.rates), ridge.weights):
        z = x @ ridge.basis - ridge.mean
        residuals = targets - ridge.rates - z @ (ridge.products * factors[:, None])
        rows = torch.cat([torch.ones(len(z), 1, dtype=torch.float64), z], 1)
        weighted = rows * weights[:, None]
        products, scatter = products + weighted.T @ residuals, scatter + weighted.T @ rows
    return products, scatter
