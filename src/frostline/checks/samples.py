"""All images of a data set, of all splits, with their features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from frostline.checks.neighbours import shortened
from frostline.data.images import Images, join
from frostline.data.masks import Masks
from frostline.data.targets import TableTargets
from frostline.store.activations import Activations, Filled
from frostline.store.reading import Reader, StoredRows
from frostline.terminal import human_bytes

WIDE, NARROW = 4_096, 1_024  # features with more than WIDE components are reduced to NARROW
AT_HAND = Filled(0, 0, 0.0, 0, "memory")
MOST_BYTES = 2_000_000_000  # of features in memory
EXACT_BYTES = 100_000_000  # up to this size features are float32, then bfloat16


@dataclass(frozen=True, eq=False)
class Samples:
    """N images.

    images: of all splits, concatenated. split_of: the index of each image's split in `splits`, (N,).
    splits: the names of the splits, training first.
    features: of the frozen network, (N, D) of float32; None if not computed.
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
        """The label of each image, as text."""
        return self.images.labels(self.classes)

    @cached_property
    def digests(self) -> np.ndarray:
        """The digest of each image, (N,); reads files without a known digest."""
        values: np.ndarray = np.ascontiguousarray(self.images.digests.all()).view(np.dtype("V16")).ravel()
        return values

    def names(self, numbers: Sequence[int] | np.ndarray) -> tuple[str, ...]:
        return tuple(self.images.names[int(i)] for i in numbers)

    def splits_at(self, numbers: Sequence[int] | np.ndarray) -> tuple[str, ...]:
        return tuple(self.splits[int(self.split_of[int(i)])] for i in numbers)

    def labels_at(self, numbers: Sequence[int] | np.ndarray) -> tuple[str, ...]:
        return tuple(self.labels[int(i)] for i in numbers)

    def features_of(self, split: str) -> Tensor | None:
        """The features of the images of a split; None without features or for a missing split."""
        if self.features is None or split not in self.splits:
            return None
        return self.features[torch.from_numpy(self.split_of == self.splits.index(split))]

    def rows(self, split: str = "") -> Activations | None:
        """The features of a split, or of all images, as rows (D,) to solve a head on; None without features.

        Features with more than 4,096 components are reduced to the first 1,024 principal components.
        """
        features = self._narrow
        if features is None or (split and split not in self.splits):
            return None
        chosen = np.flatnonzero(self.split_of == self.splits.index(split)) if split else np.arange(len(self))
        numbers = torch.from_numpy(chosen)
        targets = torch.from_numpy(np.asarray(self.images.targets)[chosen])

        def fetch(rows: Tensor) -> Tensor:
            return features[numbers[rows]].float()

        return Activations(self.images.take(chosen), 1, fetch, TableTargets(targets, 1), AT_HAND)

    @cached_property
    def _narrow(self) -> Tensor | None:
        wide = self.features is not None and self.features.shape[1] > WIDE
        return shortened(self.features, NARROW) if wide and self.features is not None else self.features

    @property
    def one_label(self) -> bool:
        """Whether each image has one class."""
        return not isinstance(self.images.targets, Masks) and self.images.targets.ndim == 1


def samples_of(splits: Mapping[str, Images], classes: tuple[str, ...], features: Tensor | None = None) -> Samples:
    """The samples of some splits, in the order train, valid, test.

    features: of all images in that order.
    """
    counts = [len(part) for part in splits.values()]
    return Samples(
        join(list(splits.values())), np.repeat(np.arange(len(counts)), counts), tuple(splits), classes, features
    )


def gathered(splits: Mapping[str, Activations], classes: tuple[str, ...]) -> tuple[Samples, str]:
    """The samples with the features of a frozen part for plain images (the mean over maps or tokens).

    Also the reason why features are missing, or "". Rows that are recomputed on every access, and features of more than
    2 GB, are not gathered.
    """
    parts = {name: rows.images for name, rows in splits.items()}
    lacking = _lacking(splits)
    return samples_of(parts, classes, None if lacking else _features(splits)), lacking


def _features(splits: Mapping[str, Activations]) -> Tensor:
    """The rows of all plain views, (N, D): float32 if small, else bfloat16."""
    size = _bytes(splits)
    count = sum(len(rows.images) for rows in splits.values())
    kind = torch.float32 if size <= EXACT_BYTES else torch.bfloat16
    result, done = torch.empty(count, size // max(1, 4 * count), dtype=kind), 0
    for rows in splits.values():
        fetch = _once(rows)
        for numbers in torch.arange(len(rows.images)).split(512):
            result[done : done + len(numbers)] = _flat(fetch(numbers * rows.views))
            done += len(numbers)
    return result


def _bytes(splits: Mapping[str, Activations]) -> int:
    """The memory that the features of all images take as float32."""
    first = next((_once(rows)(torch.arange(1)) for rows in splits.values() if len(rows)), torch.empty(0, 0))
    return 4 * _flat(first).shape[1] * sum(len(rows.images) for rows in splits.values())


def _once(rows: Activations) -> Reader:
    """The reader of rows that are gathered here, without the store's own copy in memory."""
    return rows.fetch.once if isinstance(rows.fetch, StoredRows) else rows.fetch


def _lacking(splits: Mapping[str, Activations]) -> str:
    if any(rows.filled.kept in ("recomputed", "below") for rows in splits.values()):
        return "the features of the images are not cached"
    size = _bytes(splits)
    if size > MOST_BYTES:
        return f"the features take {human_bytes(size)} of memory, more than {human_bytes(MOST_BYTES)}"
    return ""


def _flat(rows: Tensor) -> Tensor:
    """The mean of maps (C, h, w) over positions, or of tokens (T, D) over tokens."""
    return rows.mean(1) if rows.ndim == 3 else rows.flatten(2).mean(2) if rows.ndim > 3 else rows
