"""What each training image is worth: how much worse the solved head would do on held-out images without it.

Exactly, for every image, from the one decomposition of ridge.py: leaving out an image with all its views changes the
coefficients by a matrix of rank K (Cook & Weisberg 1982), and what that changes on the held-out images follows from
their sums and scatter alone. So nothing is refitted, and nothing is held of the size training × held-out images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from frostline.errors import UsageError
from frostline.store.activations import Activations
from frostline.training.ridge import Ridge, rows_of, shrunk


def worth_of(ridge: Ridge, penalty: float, held_out: Activations) -> Tensor:
    """Of each training image the mean squared error on held-out images without it, minus with it: (images,) of float64.

        ridge = decompose(activations(lower, data.train, Views(4)), classes=10)
        worth = worth_of(ridge, 0.1, activations(lower, data.valid))
        most_harmful = worth.argsort()[:20]

    Above 0 the image helps, below 0 it harms: without it the others would be predicted better. The error is the squared
    distance from the indicators of the classes, summed over classes, each class weighed as in `ridge`. Penalty
    and scale of the features stay those of all images. held_out: rows of one view; they are read once.

    Raises UsageError for no held-out images and a penalty that is not above 0.
    """
    if not len(held_out):
        raise UsageError("worth is measured on held-out images, and there are none")
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
    """Of the held-out rows (1, z): products with their residuals (1 + r, classes), and the scatter (1 + r, 1 + r)."""
    products = scatter = torch.zeros((), dtype=torch.float64)
    for x, targets, weights in rows_of(held_out, ridge.scale, len(ridge.rates), ridge.weights):
        z = x @ ridge.basis - ridge.mean
        residuals = targets - ridge.rates - z @ (ridge.products * factors[:, None])
        rows = torch.cat([torch.ones(len(z), 1, dtype=torch.float64), z], 1)
        weighted = rows * weights[:, None]
        products, scatter = products + weighted.T @ residuals, scatter + weighted.T @ rows
    return products, scatter
