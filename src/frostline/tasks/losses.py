"""Losses by name: from logits (B, classes, …) and targets to the mean over the batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy(logits: Tensor, targets: Tensor, *, weight: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy in nats against class numbers (B, …); -100 is ignored.

    weight: per class. smoothing: the share of a label that is spread over all classes (Szegedy et al. 2016).
    """
    total = functional.cross_entropy(logits, targets, weight, reduction="sum", label_smoothing=smoothing)
    counted = _counting(targets, weight).sum()
    return total / counted if counted > 0 else logits.sum() * 0


def focal(logits: Tensor, targets: Tensor, *, weight: Tensor | None = None, gamma: float = 2.0) -> Tensor:
    """Cross-entropy with less weight on easy targets (Lin et al. 2017): times (1 - p) ** gamma."""
    loss = functional.cross_entropy(logits, targets, reduction="none")
    share = -torch.expm1(-loss)
    counting = _counting(targets, weight)
    return (counting * share**gamma * loss).sum() / counting.sum().clamp(min=1e-12)


def _counting(targets: Tensor, weight: Tensor | None) -> Tensor:
    """The weight of each target (B, …): 0 for -100."""
    known = (targets >= 0).float()
    return known if weight is None else known * weight[targets.clamp(min=0)]


def bce(logits: Tensor, targets: Tensor, *, weight: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy in nats, the mean over images and classes, against labels (B, classes) of 0 and 1.

    weight: of present labels relative to absent ones, per class.
    smoothing: moves labels towards one half by this share.
    """
    targets = targets * (1 - smoothing) + smoothing / 2
    return functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight)


def binary_focal(logits: Tensor, targets: Tensor, *, gamma: float = 2.0) -> Tensor:
    """`bce` with less weight on easy labels (Lin et al. 2017)."""
    loss = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return ((-torch.expm1(-loss)) ** gamma * loss).mean()


def dice(logits: Tensor, targets: Tensor) -> Tensor:
    """One minus the soft Dice coefficient (Milletari et al. 2016), the mean over the classes present.

    logits: (B, classes, H, W). targets: class numbers (B, H, W); -100 is ignored.
    """
    known = (targets >= 0).unsqueeze(1)
    truth = functional.one_hot(targets.clamp(min=0), logits.shape[1]).movedim(-1, 1) * known
    predicted = logits.softmax(1) * known
    axes = (0, *range(2, logits.ndim))
    both, sizes = (predicted * truth).sum(axes), predicted.sum(axes) + truth.sum(axes)
    present = truth.sum(axes) > 0
    return 1 - (2 * both[present] / sizes[present]).mean() if bool(present.any()) else predicted.sum() * 0


def cross_entropy_dice(logits: Tensor, targets: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """The sum of cross-entropy, which has good gradients, and Dice, which handles small classes."""
    return cross_entropy(logits, targets, weight=weight) + dice(logits, targets)
