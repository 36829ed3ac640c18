"""All images of a data set in a row, whatever split they are of, with what is known of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from frostline.data.images import Images, join
from frostline.data.masks import Masks
from frostline.store.activations import Activations


@dataclass(frozen=True, eq=False)
class Samples:
    """N images.

    images: of all splits, one split after the other. split_of: the number of each one's split in `splits`, (N,).
    splits: their names, in the order in which they may be learned from: training images first.
    features: what the frozen network makes of each, (N, D) of float32; None where nobody computed it.
    """

    images: Images
    split_of: np.ndarray
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    features: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def labels(self) -> list[str]:
        """Of each image, as text."""
        return self.images.labels(self.classes)

    @cached_property
    def digests(self) -> np.ndarray:
        """What stands for the content of each, (N,); files whose content nobody knows yet are read."""
        values: np.ndarray = np.ascontiguousarray(self.images.digests.all()).view(np.dtype("V16")).ravel()
        return values

    def names(self, numbers: Sequence[int] | np.ndarray) -> tuple[str, ...]:
        return tuple(self.images.names[int(i)] for i in numbers)

    def splits_at(self, numbers: Sequence[int] | np.ndarray) -> tuple[str, ...]:
        return tuple(self.splits[int(self.split_of[int(i)])] for i in numbers)

    def labels_at(self, numbers: Sequence[int] | np.ndarray) -> tuple[str, ...]:
        return tuple(self.labels[int(i)] for i in numbers)

    @property
    def one_label(self) -> bool:
        """Whether each image has one class."""
        return not isinstance(self.images.targets, Masks) and self.images.targets.ndim == 1


def samples_of(splits: Mapping[str, Images], classes: tuple[str, ...], features: Tensor | None = None) -> Samples:
    """The samples of some splits, which come in the order train, valid, test.

    features: of all images in that order.
    """
    counts = [len(part) for part in splits.values()]
    return Samples(
        join(list(splits.values())), np.repeat(np.arange(len(counts)), counts), tuple(splits), classes, features
    )


def samples_from(splits: Mapping[str, Activations], classes: tuple[str, ...]) -> Samples:
    """The same with what the frozen network made of the plain images; of maps the mean over all positions."""
    parts = {name: rows.images for name, rows in splits.items()}
    return samples_of(parts, classes, torch.cat([_pooled(rows) for rows in splits.values()]))


def feature_bytes(splits: Mapping[str, Activations]) -> int:
    """The memory that the features of all images take."""
    first = next(rows.fetch(torch.arange(1)) for rows in splits.values() if len(rows))
    return 4 * first.shape[1] * sum(len(rows.images) for rows in splits.values())


def _pooled(rows: Activations) -> Tensor:
    numbers = torch.arange(len(rows.images)) * rows.views
    return torch.cat([row.flatten(2).mean(2) if row.ndim > 2 else row for row in map(rows.fetch, numbers.split(512))])
