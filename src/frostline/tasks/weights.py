"""How much each class counts in a loss."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from frostline.data.decoding import UnreadableImageError
from frostline.data.images import Targets
from frostline.data.masks import Masks
from frostline.errors import DataError, UsageError


def imbalance(targets: Targets) -> float:
    """How many times as many images the largest class has as the smallest that has any; 1 but for one label per image.

    >>> imbalance(np.array([0, 0, 0, 0, 1, 3]))
    4.0
    """
    if not isinstance(targets, np.ndarray) or targets.ndim > 1 or not len(targets):
        return 1.0
    counts = np.bincount(targets)
    return float(counts.max() / counts[counts > 0].min())


def class_weights(weights: str | Mapping[str, float], targets: Targets, classes: tuple[str, ...]) -> Tensor:
    """How much each class (of several labels: its presence) counts in a loss, (classes,).

    weights: a weight for each class name, or "balanced": images / (classes × images of the class), as scikit-learn
        counts it; of pixels the same; of several labels absent / present ones.
    Raises UsageError for other words and for names or weights that do not fit.
    """
    if isinstance(weights, str):
        if weights != "balanced":
            raise UsageError(f"class_weights is {weights!r}; it must be 'balanced' or a weight for each class")
        return _balanced(targets, len(classes))
    if not isinstance(weights, Mapping):
        raise UsageError(f"class_weights is {weights!r}; it must be 'balanced' or a mapping of class names to weights")
    if set(weights) != set(classes):
        raise UsageError(f"class_weights are of {', '.join(weights)}; the classes are {', '.join(classes)}")
    if not all(0 <= weight < float("inf") for weight in weights.values()) or not any(weights.values()):
        raise UsageError(f"class_weights are {dict(weights)}; none may be negative or infinite, nor all of them 0")
    return torch.tensor([float(weights[name]) for name in classes])


def _balanced(targets: Targets, count: int) -> Tensor:
    if isinstance(targets, np.ndarray) and targets.ndim == 2:
        present = targets.sum(0).clip(1)
        return torch.from_numpy(((len(targets) - present).clip(1) / present).astype(np.float32))
    if isinstance(targets, Masks):
        with ThreadPoolExecutor() as pool:
            counts = np.sum(list(pool.map(lambda i: _pixels(targets, i), range(len(targets)))), 0)[:count]
    else:
        counts = np.bincount(targets, minlength=count)
    present = counts > 0
    # Of a class without any nothing is known: 1.
    weights = np.where(present, counts.sum() / (present.sum() * counts.clip(1)), 1.0)
    return torch.from_numpy(weights.astype(np.float32))


def _pixels(masks: Masks, i: int) -> np.ndarray:
    """How many pixels of a mask have each number (256,)."""
    try:
        return np.bincount(np.asarray(masks.read(i)).ravel(), minlength=256)
    except UnreadableImageError as error:
        raise DataError(f"the mask {masks.pictures[i]} cannot be read: {error}") from error
