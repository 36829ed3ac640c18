"""The labels of each sample, for images and their views."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from frostline.data.decoding import UnreadableImageError
from frostline.data.images import Images
from frostline.data.masks import NOTHING, Masks
from frostline.data.views import Views, mask_pixels
from frostline.errors import DataError
from frostline.preprocessing import Preprocessing

MEMORY_BYTES = 1_000_000_000  # most memory for masks; more masks than that are read again in every epoch


class TargetReader(Protocol):
    """Gives targets by row number, from any thread."""

    def __call__(self, rows: Tensor, /) -> Tensor: ...


def targets_of(images: Images, views: Views, preprocessing: Preprocessing) -> TargetReader:
    """A function from rows (B,) to their targets; row `i * views + v` is view `v` of image `i`.

    Targets are class numbers (B,) of int64; labels (B, classes) of 0.0 and 1.0; or, for masks, class numbers
    (B, size, size) of int64, with -100 for ignored pixels.
    """
    targets = images.targets
    if isinstance(targets, Masks):
        return MaskTargets(images, targets, views, preprocessing)
    table = torch.from_numpy(targets.astype(np.float32) if targets.dtype == np.bool_ else targets)
    return TableTargets(table, views.count)


@dataclass(frozen=True, eq=False)
class TableTargets:
    """The same targets for all views of an image. table: (N,) or (N, classes)."""

    table: Tensor
    views: int

    def __call__(self, rows: Tensor) -> Tensor:
        return self.table[rows // self.views]


@dataclass(frozen=True, eq=False)
class MaskTargets:
    """Masks with the same crops and rotations as the views of their images; kept in memory if they fit."""

    images: Images
    masks: Masks
    views: Views
    preprocessing: Preprocessing
    ready: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def __call__(self, rows: Tensor) -> Tensor:
        numbers = rows.tolist()
        missing = [row for row in dict.fromkeys(numbers) if row not in self.ready]
        with ThreadPoolExecutor() as pool:
            computed = dict(zip(missing, pool.map(self._mask, missing), strict=True))
        shown = [self.ready[row] if row in self.ready else computed[row] for row in numbers]
        if len(self.images) * self.views.count * self.preprocessing.size**2 <= MEMORY_BYTES:
            self.ready.update(computed)
        classes = torch.from_numpy(np.stack(shown)).long()
        return torch.where(classes == NOTHING, -100, classes)

    def _mask(self, row: int) -> np.ndarray:
        image, view = divmod(row, self.views.count)
        digest = self.images.digests[image] if view else b""
        try:
            shown: np.ndarray = mask_pixels(self.masks, image, digest, [view], self.views, self.preprocessing)[0]
        except UnreadableImageError as error:
            raise DataError(f"the mask of {self.images.names[image]} cannot be read: {error}") from error
        return shown
