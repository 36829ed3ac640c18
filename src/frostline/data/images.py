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
from frostline.data.parts import Parts
from frostline.data.texts import Paths, Texts
from frostline.notebook import fragment

Targets = np.ndarray | Masks
LISTED = 30  # classes that a notebook shows
LOOKED_AT = 8  # images

__all__ = ["ImageSet", "Images", "Paths", "Targets", "Texts", "join", "spread"]


@dataclass(frozen=True, eq=False, repr=False)
class Images:
    """Some images with their targets.

    pictures: files, or arrays (H, W) or (H, W, 3) of uint8; a list of files is kept as `Paths`.
    targets: class numbers (N,) of int64; for several labels per image (N, classes) of bool; or a mask per image.
    names: names for people; kept as `Texts`.
    digests: 16 bytes per image that identify its content, each computed on first access.
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

    def _repr_html_(self) -> str:
        """What a notebook shows: some of the images."""
        some = self.take(spread(len(self), LOOKED_AT))
        return fragment(f"{len(self)} images for {self.task}", pictures=_small(some.names, some.pictures))

    @property
    def task(self) -> str:
        """The task that the targets are for: "classification", "multilabel" or "segmentation"."""
        if isinstance(self.targets, Masks):
            return "segmentation"
        return "classification" if self.targets.ndim == 1 else "multilabel"

    def labels(self, classes: tuple[str, ...]) -> list[str]:
        """The target of each image as text: its class, its classes "a|b", or the name of its mask."""
        if isinstance(self.targets, Masks):
            return [mask.name if isinstance(mask, Path) else "mask" for mask in self.targets.pictures]
        if self.targets.ndim == 1:
            return [classes[target] for target in self.targets]
        return ["|".join(classes[i] for i in np.flatnonzero(marks)) for marks in self.targets]

    def take(self, numbers: np.ndarray) -> Images:
        """The images of these numbers, in that order."""
        numbers = np.asarray(numbers, np.int64)
        pictures = (
            self.pictures[numbers] if isinstance(self.pictures, (Paths, Parts)) else Chosen(self.pictures, numbers)
        )
        names = Texts.of(self.names)[numbers]
        taken = Images(pictures, self.targets[numbers], names)
        object.__setattr__(taken, "digests", self.digests.take(taken.pictures, numbers))  # known ones stay known
        return taken

    def without(self, numbers: Collection[int]) -> Images:
        """All images but these."""
        if not len(numbers):
            return self
        left = np.ones(len(self), bool)
        left[list(numbers)] = False
        return self.take(np.flatnonzero(left))


class Chosen(Sequence[Picture]):
    """Some pictures of a sequence, by number, without copying them."""

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
    """Several sequences of pictures, concatenated lazily."""

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
    """A data set: training, validation and optionally test images of the same classes.

    validation: where the validation images come from: "given" by the data; "split" off the training images; or
        "crossed": the training images themselves, each predicted by a head that was solved without it. may_cross:
        whether a small data set may change from "split" to "crossed"; not if other models are measured on the same
        images.
    groups: the group of each image by its name (data/grouping.py); images without a group are left out.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    valid: Images
    test: Images | None = None
    notes: tuple[str, ...] = field(default=())
    augment: str = ""  # the augmentation preset that suits it, if known
    origin: str = ""  # the path or name that it was read from
    validation: Literal["given", "split", "crossed"] = "given"
    may_cross: bool = True
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """The task: "classification", "multilabel" or "segmentation"."""
        return self.train.task

    @property
    def colours(self) -> tuple[int, ...]:
        """The colour 0xRRGGBB of each class, if masks give them; else empty."""
        return self.train.targets.painted if isinstance(self.train.targets, Masks) else ()

    @property
    def held_out(self) -> bool:
        """Whether validation and training images differ; for very few images they are the same."""
        return set(self.valid.names) != set(self.train.names)

    @property
    def splits(self) -> dict[str, Images]:
        splits = {"train": self.train, "valid": self.valid}
        return {**splits, "test": self.test} if self.test is not None else splits

    @property
    def distinct(self) -> dict[str, Images]:
        """The splits, without validation images that are also training images."""
        return {name: part for name, part in self.splits.items() if name != "valid" or self.validation != "crossed"}

    def __repr__(self) -> str:
        return f"ImageSet({self.name}: {self._sizes()}; {len(self.classes)} classes: {_shortened(self.classes)})"

    def _sizes(self) -> str:
        return ", ".join(f"{len(part)} {split}" for split, part in self.splits.items())

    def _repr_html_(self) -> str:
        """What a notebook shows: the number of images per class, and some training images."""
        table: list[list[object]] = []
        if self.task != "segmentation":
            table = [["class", *self.splits]]
            table += [[name, *numbers] for name, *numbers in zip(self.classes, *self._counts(), strict=True)][:LISTED]
        some = self.train.take(spread(len(self.train), LOOKED_AT))
        pictures = _small(some.labels(self.classes), some.pictures)
        return fragment(f"{self.name} · {self.task}", {"images": self._sizes()}, table, pictures)

    def _counts(self) -> list[list[int]]:
        """The number of images per class, for each split."""
        return [
            np.bincount(np.nonzero(part.targets)[1] if part.targets.ndim == 2 else part.targets, minlength=n).tolist()
            for part in self.splits.values()
            if isinstance(part.targets, np.ndarray)
            for n in [len(self.classes)]
        ]

    def with_splits(self, splits: dict[str, Images]) -> ImageSet:
        return replace(self, **splits)  # type: ignore[arg-type]


def join(parts: Sequence[Images]) -> Images:
    """All images of several splits, concatenated."""
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
    tars = [part for part in parts if isinstance(part, Parts)]
    if tars and len(tars) == len(parts) and all(part.root == tars[0].root for part in tars):
        return Parts.joined(tars)
    return Joined(parts)


def _small(texts: Sequence[str], pictures: Sequence[Picture]) -> list[tuple[str, bytes]]:
    """Thumbnails with their texts, of the pictures that can be read."""
    both = ((text, thumbnail(picture)) for text, picture in zip(texts, pictures, strict=True))
    return [(text, small) for text, small in both if small]


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")


def spread(count: int, most: int) -> np.ndarray:
    """The numbers of at most `most` of `count` images, evenly spread."""
    return np.linspace(0, count - 1, min(most, count)).astype(np.int64)
