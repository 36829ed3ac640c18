"""Labelled images as values: a split of them, and a data set of splits."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from frostline.data.decoding import Picture, thumbnail
from frostline.data.digests import Digests
from frostline.data.masks import Masks
from frostline.data.texts import Paths, Texts
from frostline.notebook import fragment

Targets = np.ndarray | Masks
LISTED = 30  # classes that a notebook shows
LOOKED_AT = 8  # images

__all__ = ["ImageSet", "Images", "Paths", "Targets", "Texts", "join", "spread"]


@dataclass(frozen=True, eq=False, repr=False)
class Images:
    """Some images with what is to be learned of them.

    pictures: files, or arrays (H, W) or (H, W, 3) of uint8; a list of files is kept as `Paths`.
    targets: class numbers (N,) of int64; for several labels per image (N, classes) of bool; or a mask per image.
    names: what people call them; kept as `Texts`.
    digests: 16 bytes per image that stand for its content, each read when it is first asked for.
    """

    pictures: Sequence[Picture]
    targets: Targets
    names: Sequence[str]
    digests: Digests = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.pictures, (list, tuple)) and all(isinstance(each, Path) for each in self.pictures):
            object.__setattr__(self, "pictures", Paths.of(self.pictures))
        object.__setattr__(self, "names", Texts.of(self.names))
        object.__setattr__(self, "digests", Digests.of(self.pictures))

    def __len__(self) -> int:
        return len(self.pictures)

    def __repr__(self) -> str:
        return f"Images({len(self)} for {self.task}: {', '.join(self.names[:2])}{', …' if len(self) > 2 else ''})"

    @property
    def task(self) -> str:
        """What is to be learned: "classification", "multilabel" or "segmentation"; the targets tell."""
        if isinstance(self.targets, Masks):
            return "segmentation"
        return "classification" if self.targets.ndim == 1 else "multilabel"

    def labels(self, classes: tuple[str, ...]) -> list[str]:
        """What is to be learned of each image, as text: its class, its classes "a|b", or the name of its mask."""
        if isinstance(self.targets, Masks):
            return [mask.name if isinstance(mask, Path) else "mask" for mask in self.targets.pictures]
        if self.targets.ndim == 1:
            return [classes[target] for target in self.targets]
        return ["|".join(classes[i] for i in np.flatnonzero(marks)) for marks in self.targets]

    def take(self, numbers: np.ndarray) -> Images:
        """Those images, in that order."""
        numbers = np.asarray(numbers, np.int64)
        pictures = self.pictures[numbers] if isinstance(self.pictures, Paths) else Chosen(self.pictures, numbers)
        names = Texts.of(self.names)[numbers]
        taken = Images(pictures, self.targets[numbers], names)
        object.__setattr__(taken, "digests", self.digests.take(taken.pictures, numbers))  # what is known of them
        return taken

    def without(self, numbers: Collection[int]) -> Images:
        """All but those images."""
        if not len(numbers):
            return self
        left = np.ones(len(self), bool)
        left[list(numbers)] = False
        return self.take(np.flatnonzero(left))


class Chosen(Sequence[Picture]):
    """Some of a sequence of pictures, by their numbers, without a copy of them."""

    def __init__(self, pictures: Sequence[Picture], numbers: np.ndarray) -> None:
        inner = isinstance(pictures, Chosen)
        self.pictures = pictures.pictures if inner else pictures  # type: ignore[attr-defined]
        self.numbers = pictures.numbers[numbers] if inner else numbers  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, chosen: int) -> Picture:  # type: ignore[override]  # one picture; `Images.take` gives several
        picture: Picture = self.pictures[self.numbers[chosen]]
        return picture


class Joined(Sequence[Picture]):
    """Several sequences of pictures, one after the other, of which none is looked at before it is asked for."""

    def __init__(self, parts: Sequence[Sequence[Picture]]) -> None:
        self.parts, self.ends = tuple(parts), np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, chosen: int) -> Picture:  # type: ignore[override]  # one picture; `Images.take` gives several
        number = operator.index(chosen)
        if not 0 <= number < len(self):
            raise IndexError(number)
        place = int(np.searchsorted(self.ends, number, side="right"))
        part = self.parts[place]
        picture: Picture = part[number - int(self.ends[place]) + len(part)]
        return picture


@dataclass(frozen=True, repr=False)
class ImageSet:
    """A data set: training, validation and perhaps test images of the same classes.

    validation: where the validation images are from: "given" apart; "split" off the training images; or "crossed": the
        training images themselves, each to be predicted by a head that was solved on others. may_cross: whether images
        that were split off may become such, of few; not where others are to be measured on the same.
    groups: by the name of an image, which ones belong together (data/grouping.py); those that belong to none lack.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    valid: Images
    test: Images | None = None
    notes: tuple[str, ...] = field(default=())
    augment: str = ""  # the preset of views that suits it, where that is known
    origin: str = ""  # what it was read from, as a path or name that reads it again
    validation: Literal["given", "split", "crossed"] = "given"
    may_cross: bool = True
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """What is to be learned: "classification", "multilabel" or "segmentation"."""
        return self.train.task

    @property
    def held_out(self) -> bool:
        """Whether the validation images are others than those for training, which they are not of very few images."""
        return set(self.valid.names) != set(self.train.names)

    @property
    def splits(self) -> dict[str, Images]:
        splits = {"train": self.train, "valid": self.valid}
        return {**splits, "test": self.test} if self.test is not None else splits

    @property
    def distinct(self) -> dict[str, Images]:
        """The splits, but for validation images that are those for training."""
        return {name: part for name, part in self.splits.items() if name != "valid" or self.validation != "crossed"}

    def __repr__(self) -> str:
        return f"ImageSet({self.name}: {self._sizes()}; {len(self.classes)} classes: {_shortened(self.classes)})"

    def _sizes(self) -> str:
        return ", ".join(f"{len(part)} {split}" for split, part in self.splits.items())

    def _repr_html_(self) -> str:
        """What a notebook shows: how many images of each class, and some for training."""
        table: list[list[object]] = []
        if self.task != "segmentation":
            table = [["class", *self.splits]]
            table += [[name, *numbers] for name, *numbers in zip(self.classes, *self._counts(), strict=True)][:LISTED]
        some = self.train.take(spread(len(self.train), LOOKED_AT))
        pictures = [
            (label, small)
            for label, picture in zip(some.labels(self.classes), some.pictures, strict=True)
            if (small := thumbnail(picture))
        ]
        return fragment(f"{self.name} · {self.task}", {"images": self._sizes()}, table, pictures)

    def _counts(self) -> list[list[int]]:
        """Of each split how many images each class has."""
        return [
            np.bincount(np.nonzero(part.targets)[1] if part.targets.ndim == 2 else part.targets, minlength=n).tolist()
            for part in self.splits.values()
            if isinstance(part.targets, np.ndarray)
            for n in [len(self.classes)]
        ]

    def with_splits(self, splits: dict[str, Images]) -> ImageSet:
        return replace(self, **splits)  # type: ignore[arg-type]


def join(parts: Sequence[Images]) -> Images:
    """All images of several splits, one after the other."""
    masks = [part.targets for part in parts if isinstance(part.targets, Masks)]
    arrays = [part.targets for part in parts if isinstance(part.targets, np.ndarray)]
    together = Images(
        _joined([part.pictures for part in parts]),
        replace(masks[0], pictures=[mask for part in masks for mask in part.pictures])
        if masks
        else np.concatenate(arrays),
        Texts.of(name for part in parts for name in part.names),
    )
    object.__setattr__(together, "digests", Digests.joined(together.pictures, [part.digests for part in parts]))
    return together


def _joined(parts: Sequence[Sequence[Picture]]) -> Sequence[Picture]:
    if all(isinstance(part, Paths) for part in parts):
        return Paths.of(part.root + name for part in parts if isinstance(part, Paths) for name in part.names)
    return Joined(parts)


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")


def spread(count: int, most: int) -> np.ndarray:
    """The numbers of at most so many of `count` images, evenly spread over them."""
    return np.linspace(0, count - 1, min(most, count)).astype(np.int64)
