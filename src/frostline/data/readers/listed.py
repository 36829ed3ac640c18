"""Images that are known by a list of names: in a bucket, or in tars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from frostline.data.decoding import SUFFIXES
from frostline.data.images import Images, ImageSet
from frostline.data.parts import Parts
from frostline.data.readers.folder import SPLIT_OF, SPLITS, unknown_classes
from frostline.data.split import chosen_splits, image_set
from frostline.data.texts import Texts
from frostline.errors import DataError


@dataclass(frozen=True, eq=False)
class Listed:
    """Images with a label and a split each.

    where: what messages call them. title: the name of the data set. names: for people. labels: (N,) of int64, indices
    into `classes`, which are sorted. splits: (N,) of "train", "valid" or "test", or all "" without splits.
    """

    where: str
    title: str
    pictures: Parts
    names: Texts
    labels: np.ndarray
    classes: tuple[str, ...]
    splits: np.ndarray
    notes: tuple[str, ...] = ()

    def take(self, numbers: np.ndarray) -> Listed:
        """The images of these numbers."""
        some = {"labels": self.labels[numbers], "splits": self.splits[numbers]}
        return replace(self, pictures=self.pictures[numbers], names=self.names[numbers], **some)

    @property
    def existing(self) -> list[str]:
        """The splits that have images, training first."""
        return [split for split in SPLITS if (self.splits == split).any()]


def listed_set(listed: Listed, seed: int) -> ImageSet:
    """A data set of them; without validation images it takes a stratified fifth of the training images.

    Raises DataError without images or training images, for fewer than two classes, and for classes that only other
    splits have.
    """
    existing = listed.existing
    if existing and "train" not in existing:
        raise DataError(f"{listed.where} has no training images; it has only {', '.join(existing)}")
    train = listed.take(np.flatnonzero(listed.splits == "train")) if existing else listed
    classes = tuple(listed.classes[i] for i in np.unique(train.labels))
    if len(classes) < 2:
        only = f"only one class, {classes[0]!r}," if classes else "no images"
        raise DataError(f"{only} in {listed.where}; a classifier needs at least two classes")
    splits = {split: listed.take(np.flatnonzero(listed.splits == split)) for split in existing} or {"train": train}
    images = {split: _matched(some, classes) for split, some in splits.items()}
    return image_set(listed.title, classes, images, seed, listed.notes, listed.where)


def listed_for(listed: Listed, classes: tuple[str, ...], choice: str) -> tuple[Images, str]:
    """Images to measure a classifier on, matched to its classes by name, and the name of their split.

    choice: "all", "train", "valid" or "test"; "" for the test split, else validation, else all.
    """
    if not listed.existing and choice in ("", "all"):
        return _matched(listed, classes), "all"
    names, choice = chosen_splits(listed.existing, choice, listed.where)
    return _matched(listed.take(np.flatnonzero(np.isin(listed.splits, names))), classes), choice


def all_listed(listed: Listed) -> Images:
    """All of them, to be classified."""
    return Images(listed.pictures, np.zeros(len(listed.names), np.int64), Texts.of(map(str, listed.pictures)))


def _matched(listed: Listed, classes: Sequence[str]) -> Images:
    number_of = {name: number for number, name in enumerate(classes)}
    numbers = np.array([number_of.get(name, -1) for name in listed.classes], np.int64)
    targets = numbers[listed.labels]
    if (targets < 0).any():
        extra = [listed.classes[i] for i in np.unique(listed.labels[targets < 0])]
        raise unknown_classes(listed.where, extra, classes)
    return Images(listed.pictures, targets, listed.names)


def by_folders(
    names: Iterable[str], where: str
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], np.ndarray, list[str]]:
    """The images among names such as `train/cats/1.jpg` or `cats/1.jpg`, as in folders of class folders.

    Returns their numbers (N,), labels (N,), classes, splits (N,), and notes on what is left out.
    Raises DataError for images and masks: these are read from a local folder only.
    """
    parts = [(i, name.split("/")) for i, name in enumerate(names) if not _hidden(name)]
    images = [(i, path) for i, path in parts if path[-1].lower().endswith(SUFFIXES)]
    tops = {path[0].lower() for _, path in images if len(path) > 1}
    if {"images", "masks"} <= tops or {"images", "labels"} <= {part.lower() for _, path in parts for part in path[:-1]}:
        raise DataError(f"{where} has images with masks or boxes, which are read from a local folder: copy it first")
    inside = [(i, path) for i, path in images if len(path) > 2 and path[0].lower() in SPLIT_OF]
    apart = len(inside) > 0 and all(top in SPLIT_OF for top in tops)
    used = inside if apart else [(i, path) for i, path in images if len(path) > 1]
    labels = [path[1] if apart else path[0] for _, path in used]
    splits = [SPLIT_OF[path[0].lower()] if apart else "" for _, path in used]
    notes = []
    if loose := len(images) - len(used):
        notes.append(f"{loose} image{'s are' if loose > 1 else ' is'} in no class folder and not used")
    if others := len(parts) - len(images):
        notes.append(f"skipped {others} file{'s' * (others > 1)} without an image extension")
    classes, numbers = np.unique(np.array(labels, object).astype(str), return_inverse=True)
    chosen = np.array([i for i, _ in used], np.int64)
    return chosen, numbers.astype(np.int64), tuple(map(str, classes)), np.array(splits), notes


def _hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name or "__MACOSX" in name or "__pycache__" in name
