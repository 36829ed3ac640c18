"""Labelled images as values: a split of them, and a data set of splits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from frostline.data.decoding import Picture
from frostline.data.digests import digests
from frostline.data.masks import Masks

Targets = np.ndarray | Masks


@dataclass(frozen=True, eq=False)
class Images:
    """Some images with what is to be learned of them.

    pictures: files, or arrays (H, W) or (H, W, 3) of uint8.
    targets: class numbers (N,) of int64; for several labels an image (N, classes) of bool; or a mask an image.
    names: what people call them.
    """

    pictures: Sequence[Picture]
    targets: Targets
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def task(self) -> str:
        """What is to be learned: "classification", "multilabel" or "segmentation"; the targets tell."""
        if isinstance(self.targets, Masks):
            return "segmentation"
        return "classification" if self.targets.ndim == 1 else "multilabel"

    @cached_property
    def digests(self) -> list[bytes]:
        """16 bytes an image that stand for its content, read once."""
        return digests(self.pictures)

    def recall_digests(self, store: Path) -> None:
        """Have the digests from a store's memory of files; what it does not know is read, and remembered there."""
        if "digests" not in self.__dict__:
            self.__dict__["digests"] = digests(self.pictures, store)

    def labels(self, classes: tuple[str, ...]) -> list[str]:
        """What is to be learned of each image, as text: its class, its classes "a|b", or the name of its mask."""
        if isinstance(self.targets, Masks):
            return [mask.name if isinstance(mask, Path) else "mask" for mask in self.targets.pictures]
        if self.targets.ndim == 1:
            return [classes[target] for target in self.targets]
        return ["|".join(classes[i] for i in np.flatnonzero(row)) for row in self.targets]

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
    augment: str = ""  # the preset of views that suits it, where that is known
    origin: str = ""  # what it was read from, as a path or name that reads it again

    @property
    def task(self) -> str:
        """What is to be learned: "classification", "multilabel" or "segmentation"."""
        return self.train.task

    @property
    def splits(self) -> dict[str, Images]:
        splits = {"train": self.train, "valid": self.valid}
        return {**splits, "test": self.test} if self.test is not None else splits

    def with_splits(self, splits: dict[str, Images]) -> ImageSet:
        return replace(self, **splits)  # type: ignore[arg-type]


def join(parts: Sequence[Images]) -> Images:
    """All images of several splits, one after the other."""
    masks = [part.targets for part in parts if isinstance(part.targets, Masks)]
    arrays = [part.targets for part in parts if isinstance(part.targets, np.ndarray)]
    return Images(
        [picture for part in parts for picture in part.pictures],
        Masks([mask for part in masks for mask in part.pictures], masks[0].numbers)
        if masks
        else np.concatenate(arrays),
        [name for part in parts for name in part.names],
    )


def spread(count: int, most: int) -> np.ndarray:
    """The numbers of at most so many of `count` images, evenly spread over them."""
    return np.linspace(0, count - 1, min(most, count)).astype(np.int64)
