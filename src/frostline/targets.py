"""What the rows of a set of images and views are to be answered with, and how much each class counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from frostline.data.decoding import UnreadableImageError
from frostline.data.images import Images, Targets
from frostline.data.masks import NOTHING, Masks
from frostline.data.views import Views, mask_pixels
from frostline.errors import DataError, UsageError
from frostline.preprocessing import Preprocessing

MEMORY_BYTES = 1_000_000_000  # masks kept ready at most; beyond that they are read again in every epoch


def targets_of(images: Images, views: Views, how: Preprocessing) -> Callable[[Tensor], Tensor]:
    """From rows (B,), `i * views + v` for view `v` of image `i`, to their targets.

    Class numbers (B,) of int64; labels (B, classes) of 0.0 and 1.0; of masks class numbers (B, size, size) of int64,
    -100 for what counts for nothing.
    """
    targets, count = images.targets, views.count
    if isinstance(targets, Masks):
        return _masks(images, targets, views, how)
    table = torch.from_numpy(targets.astype(np.float32) if targets.dtype == np.bool_ else targets)
    return lambda rows: table[rows // count]


def _masks(images: Images, masks: Masks, views: Views, how: Preprocessing) -> Callable[[Tensor], Tensor]:
    kept: dict[int, np.ndarray] = {}
    fits = len(images) * views.count * how.size**2 <= MEMORY_BYTES

    def mask(row: int) -> np.ndarray:
        image, view = divmod(row, views.count)
        try:
            shown: np.ndarray = mask_pixels(masks, image, images.digests[image], [view], views, how)[0]
        except UnreadableImageError as error:
            raise DataError(f"the mask of {images.names[image]} cannot be read: {error}") from error
        return shown

    def fetch(rows: Tensor) -> Tensor:
        wanted = rows.tolist()
        missing = [row for row in dict.fromkeys(wanted) if row not in kept]
        with ThreadPoolExecutor() as pool:
            made = dict(zip(missing, pool.map(mask, missing), strict=True))
        numbers = torch.from_numpy(np.stack([kept[row] if row in kept else made[row] for row in wanted])).long()
        if fits:
            kept.update(made)
        return torch.where(numbers == NOTHING, -100, numbers)

    return fetch


def class_weights(asked: str | Mapping[str, float], targets: Targets, classes: tuple[str, ...]) -> Tensor:
    """How much each class (of several labels: its presence) counts in a loss, (classes,).

    asked: a weight for each class name, or "balanced": images / (classes × images of the class), as scikit-learn
        counts it; of pixels the same; of several labels absent / present ones.
    Raises UsageError for other words and for names or weights that do not fit.
    """
    if isinstance(asked, str):
        if asked != "balanced":
            raise UsageError(f"class_weights is {asked!r}; it must be 'balanced' or a weight for each class")
        return _balanced(targets, len(classes))
    if not isinstance(asked, Mapping):
        raise UsageError(f"class_weights is {asked!r}; it must be 'balanced' or a mapping of class names to weights")
    if set(asked) != set(classes):
        raise UsageError(f"class_weights are of {', '.join(asked)}; the classes are {', '.join(classes)}")
    if not all(0 <= weight < float("inf") for weight in asked.values()):
        raise UsageError(f"class_weights are {dict(asked)}; none may be negative or infinite")
    return torch.tensor([float(asked[name]) for name in classes])


def _balanced(targets: Targets, count: int) -> Tensor:
    if isinstance(targets, np.ndarray) and targets.ndim == 2:
        present = targets.sum(0).clip(1)
        return torch.from_numpy(((len(targets) - present).clip(1) / present).astype(np.float32))
    if isinstance(targets, Masks):
        with ThreadPoolExecutor() as pool:
            counts = np.sum(list(pool.map(lambda i: _pixels(targets, i), range(len(targets)))), 0)[:count]
    else:
        counts = np.bincount(targets, minlength=count)
    there = counts > 0
    weights = np.where(there, counts.sum() / (there.sum() * counts.clip(1)), 1.0)  # 1: nothing is known of the others
    return torch.from_numpy(weights.astype(np.float32))


def _pixels(masks: Masks, i: int) -> np.ndarray:
    """How many pixels of a mask have each number (256,)."""
    try:
        return np.bincount(np.asarray(masks.read(i)).ravel(), minlength=256)
    except UnreadableImageError as error:
        raise DataError(f"the mask {masks.pictures[i]} cannot be read: {error}") from error
