"""The loss of a logistic head and its gradient, over any number of rows: multinomial, or one regression per class."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from frostline.training.scale import Blocks

MOST_LOGITS = 4_000_000  # at once


def loss_and_gradient(
    blocks: Blocks, mean: Tensor, weight: Tensor, bias: Tensor, class_weight: Tensor | None
) -> Tensor:
    """The summed loss of rows, and its gradient with respect to weight and bias, flat: (1 + classes * (D + 1),).

    weight: (classes, D), for features around their mean (D,).
    """
    loss, gradient = 0.0, torch.zeros(len(weight), len(mean) + 1)
    for x, y in _pieces(blocks, len(weight)):
        x = x - mean
        value, residual = loss_and_residual(functional.linear(x, weight, bias), y, class_weight)
        loss += value
        gradient[:, :-1] += residual.T @ x
        gradient[:, -1] += residual.sum(0)
    return torch.cat([torch.tensor([loss], dtype=torch.float64), gradient.ravel()])


def loss_and_residual(logits: Tensor, targets: Tensor, weight: Tensor | None) -> tuple[float, Tensor]:
    """The summed loss of all rows in nats, and its gradient with respect to the logits (B, classes)."""
    if targets.ndim > 1:
        value = functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="sum")
        p, positive = logits.sigmoid(), 1.0 if weight is None else weight
        return float(value), p * (1 - targets) - positive * (1 - p) * targets
    log_p = logits.log_softmax(1)
    rows = torch.arange(len(targets))
    residual = log_p.exp()
    residual[rows, targets] -= 1
    each = torch.ones(len(targets)) if weight is None else weight[targets]
    return -float((each * log_p[rows, targets]).sum()), residual * each[:, None]


def _pieces(blocks: Blocks, classes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The blocks in pieces of a bounded number of logits: of 20,000 classes those of one block take gigabytes."""
    size = max(1, MOST_LOGITS // classes)
    return (piece for x, y in blocks() for piece in zip(x.split(size), y.split(size), strict=True))
