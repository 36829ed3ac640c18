"""Labelled images as values: a split of them, and a data set of splits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from frostline.data.decoding import Picture, digest


@dataclass(frozen=True, eq=False)
class Images:
    """Some images with their class numbers.

    pictures: files, or arrays (H, W) or (H, W, 3) of uint8. targets: (N,) of int64. names: what people call them.
    """

    pictures: Sequence[Picture]
    targets: np.ndarray
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.pictures)

    @cached_property
    def digests(self) -> list[bytes]:
        """16 bytes an image that stand for its content, read once."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(digest, self.pictures, chunksize=64))

    def take(self, rows: np.ndarray) -> Images:
        """Those images, in that order."""
        taken = Images([self.pictures[i] for i in rows], self.targets[rows], [self.names[i] for i in rows])
        if "digests" in self.__dict__:
            taken.__dict__["digests"] = [self.digests[i] for i in rows]
        return taken

    def without(self, rows: Collection[int]) -> Images:
        """All but those images."""
        return self.take(np.array([i for i in range(len(self)) if i not in rows], np.int64)) if rows else self


@dataclass(frozen=True)
class ImageSet:
    """A data set: training, validation and perhaps test images of the same classes."""

    name: str
    classes: tuple[str, ...]
    train: Images
    valid: Images
    test: Images | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def splits(self) -> dict[str, Images]:
        splits = {"train": self.train, "valid": self.valid}
        return {**splits, "test": self.test} if self.test is not None else splits

    def with_splits(self, splits: dict[str, Images]) -> ImageSet:
        return replace(self, **splits)  # type: ignore[arg-type]


def join(parts: Sequence[Images]) -> Images:
    """All images of several splits, one after the other."""
    return Images(
        [picture for part in parts for picture in part.pictures],
        np.concatenate([part.targets for part in parts]),
        [name for part in parts for name in part.names],
    )
