"""Class weights of a loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from frostline.data.decoding import UnreadableImageError
from frostline.data.images import Targets
from frostline.data.masks import Masks
from frostline.errors import DataError, UsageError
from frostline.settings import SHORT


def imbalance(targets: Targets) -> float:
    """The ratio of images in the largest class to the smallest non-empty one; 1 unless each image has one label.

    >>> imbalance(np.array([0, 0, 0, 0, 1, 3]))
    4.0
    """
    if not isinstance(targets, np.ndarray) or targets.ndim > 1 or not len(targets):
        return 1.0
    counts = np.bincount(targets)
    return float(counts.max() / counts[counts > 0].min())


def class_weights(weights: str | Mapping[str, float], targets: Targets, classes: tuple[str, ...]) -> Tensor:
    """The weight of each class in a loss (for several labels: of its presence), (classes,).

    weights: a weight per class name, or "balanced": images / (classes × images of the class), as in scikit-learn;
        the same for pixels; for several labels absent / present.
    Raises UsageError for other words and for names or weights that do not fit.
    """
    if isinstance(weights, str):
        if weights != "balanced":
            raise UsageError(f"class_weights is {weights!r}; it must be 'balanced' or a weight for each class")
        return _balanced(targets, len(classes))
    if not isinstance(weights, Mapping):
        raise UsageError(f"class_weights is {weights!r}; it must be 'balanced' or a mapping of class names to weights")
    if set(weights) != set(classes):
        named = ", ".join(map(str, weights))
        raise UsageError(f"class_weights name {named}, but the classes are {', '.join(classes)}; name each class once")
    try:
        numbers = [float(weights[name]) for name in classes]
    except (TypeError, ValueError, OverflowError):
        numbers = [math.nan]
    if not all(0 <= number < math.inf for number in numbers) or not any(numbers):
        raise UsageError(
            f"class_weights are {SHORT.repr(dict(weights))}; they must be finite and not negative, and not all 0"
        )
    return torch.tensor(numbers)


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
    # A class without images gets weight 1.
    weights = np.where(present, counts.sum() / (present.sum() * counts.clip(1)), 1.0)
    return torch.from_numpy(weights.astype(np.float32))


def _pixels(masks: Masks, i: int) -> np.ndarray:
    """The number of pixels of a mask per class number (256,)."""
    try:
        return np.bincount(np.asarray(masks.read(i)).ravel(), minlength=256)
    except UnreadableImageError as error:
        raise DataError(f"cannot read the mask {masks.pictures[i]!s}: {error}") from error
