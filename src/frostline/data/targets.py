"""What the rows of a set of images and views are to be answered with, and how much each class counts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from frostline.data.decoding import UnreadableImageError
from frostline.data.images import Images
from frostline.data.masks import NOTHING, Masks
from frostline.data.views import Views, mask_pixels
from frostline.errors import DataError
from frostline.preprocessing import Preprocessing

MEMORY_BYTES = 1_000_000_000  # masks kept ready at most; beyond that they are read again in every epoch


def targets_of(images: Images, views: Views, preprocessing: Preprocessing) -> Callable[[Tensor], Tensor]:
    """From rows (B,), `i * views + v` for view `v` of image `i`, to their targets.

    Class numbers (B,) of int64; labels (B, classes) of 0.0 and 1.0; of masks class numbers (B, size, size) of int64,
    -100 for what counts for nothing.
    """
    targets, count = images.targets, views.count
    if isinstance(targets, Masks):
        return _masks(images, targets, views, preprocessing)
    table = torch.from_numpy(targets.astype(np.float32) if targets.dtype == np.bool_ else targets)
    return lambda rows: table[rows // count]


def _masks(images: Images, masks: Masks, views: Views, preprocessing: Preprocessing) -> Callable[[Tensor], Tensor]:
    kept: dict[int, np.ndarray] = {}
    fits = len(images) * views.count * preprocessing.size**2 <= MEMORY_BYTES

    def mask(row: int) -> np.ndarray:
        image, view = divmod(row, views.count)
        try:
            shown: np.ndarray = mask_pixels(masks, image, images.digests[image], [view], views, preprocessing)[0]
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
