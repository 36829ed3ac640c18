"""Splits: split off validation images (stratified, seeded, the same on every machine), and choose among splits."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

import numpy as np

from frostline.data.images import Images, ImageSet, Targets, spread
from frostline.data.masks import Masks
from frostline.errors import DataError, several

VALID_FRACTION = 0.2
MANY_SINGLE = 10  # with at least so many classes of one image each, the labels are hardly classes


def stratified(
    targets: Targets,
    names: Sequence[str],
    fraction: float,
    seed: int,
    most: int | None = None,
    contents: np.ndarray | None = None,
) -> np.ndarray:
    """Which images go to the smaller part: (N,) of bool, `fraction` of every class, never a whole class.

    An image with several labels counts for its rarest label; images without labels form one class, and so do images
    with masks. A class of at least two images gives at least one; a single image stays.
    most: upper limit for the images in total; then the largest classes give fewer, and every class still gives one.
    contents: the number of the content of each image, (N,); all images of one content then go to the same part, and
        stay if their labels contradict each other.
    The seed and the names of the images decide, so adding or removing an image hardly moves the others.
    """
    if contents is not None:
        return _stratified_contents(targets, names, fraction, seed, most, contents)
    hashes = b"".join(_hash(seed, name) for name in names)
    groups = _groups(targets)
    order = np.lexsort((np.frombuffer(hashes, ">u8"), groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=groups[order[:1]] - 1))
    sizes = np.diff(starts, append=len(order))
    chosen = np.zeros(len(groups), bool)
    for start, count in zip(starts, _shares(sizes, fraction, most), strict=True):
        chosen[order[start : start + count]] = True
    return chosen


def _stratified_contents(
    targets: Targets, names: Sequence[str], fraction: float, seed: int, most: int | None, contents: np.ndarray
) -> np.ndarray:
    """`stratified` of one image per content, the first by name, for all its copies."""
    order = np.argsort(np.asarray(names, object).astype(str), kind="stable")
    _, place, number = np.unique(contents[order], return_index=True, return_inverse=True)
    firsts, of = order[place], np.empty(len(order), np.int64)
    of[order] = number.ravel()
    chosen = stratified(targets[firsts], [names[int(i)] for i in firsts], fraction, seed, most)
    groups = _groups(targets)
    chosen[of[groups != groups[firsts][of]]] = False  # a class that has only such images keeps them in training
    result: np.ndarray = chosen[of]
    return result


def some_of_each(images: Images, most: int, seed: int = 0) -> np.ndarray:
    """The numbers of at most `most` images, in order: stratified, or evenly spread among too many classes."""
    if len(images) <= most:
        return np.arange(len(images))
    some = np.flatnonzero(stratified(images.targets, images.names, most / len(images), seed, most))
    return some if 0 < len(some) <= most else spread(len(images), most)


def whole_groups(targets: Targets, groups: Sequence[str], fraction: float, seed: int) -> np.ndarray:
    """Like `stratified` for whole groups: (N,) of bool, about `fraction` of every class.

    groups: the group of each image, (N,). The seed and the names decide the order of the groups. A group is taken if
    that brings the classes nearer to their shares. A class that still has no image then gets the group that fits best.
    The last group of a class is never taken.
    """
    names, of = np.unique(np.asarray(groups, object).astype(str), return_inverse=True)
    counts = _counts_of_groups(targets, of, len(names))
    wanted = np.maximum(fraction * counts.sum(0), 1e-9)
    chosen = np.zeros(len(names), bool)
    has = counts > 0
    taken, left = np.zeros_like(wanted), has.sum(0)  # images taken and groups left per class, kept up to date

    def away(more: np.ndarray | float = 0.0) -> float:
        return float((((taken + more - wanted) / wanted) ** 2).sum())

    def may_go(number: int) -> bool:
        return not chosen[number] and bool((left[has[number]] > 1).all())

    def take(number: int) -> None:
        nonlocal taken, left
        chosen[number], taken, left = True, taken + counts[number], left - has[number]

    order = sorted(range(len(names)), key=lambda i: _hash(seed, str(names[i])))
    for number in order:
        if may_go(number) and away(counts[number]) < away():
            take(number)
    for label in range(counts.shape[1]):
        if not taken[label] and (able := [i for i in order if has[i, label] and may_go(i)]):
            take(min(able, key=lambda i: away(counts[i])))
    result: np.ndarray = chosen[of]
    return result


def _counts_of_groups(targets: Targets, of: np.ndarray, groups: int) -> np.ndarray:
    """How many images of each class are in each group, (groups, classes); masks count as one class."""
    if isinstance(targets, Masks):
        return np.bincount(of, minlength=groups)[:, None].astype(np.float64)
    if targets.ndim == 2:
        counts = np.zeros((groups, targets.shape[1]))
        np.add.at(counts, of, targets)
        return counts
    classes, labels = np.unique(targets, return_inverse=True)
    counts = np.zeros((groups, len(classes)))
    np.add.at(counts, (of, labels), 1)
    return counts


def _hash(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed} {name}".encode("utf-8", "surrogateescape"), digest_size=8).digest()


def _shares(sizes: np.ndarray, fraction: float, most: int | None) -> np.ndarray:
    """How many images to take from each class, from the number that it has."""
    shares: np.ndarray = np.minimum(np.maximum(1, np.rint(fraction * sizes)), sizes - 1).astype(np.int64)
    while most is not None and shares.sum() > most and shares.max() > 1:
        shares[shares.argmax()] -= 1
    return shares


def _groups(targets: Targets) -> np.ndarray:
    """(N,), the stratum of each image."""
    if isinstance(targets, Masks):
        return np.zeros(len(targets), np.int64)
    if targets.ndim == 1:
        return targets
    often = np.where(targets, targets.sum(axis=0), len(targets) + 1)
    return np.where(targets.any(axis=1), often.argmin(axis=1), -1)


def single(targets: Targets, group: np.ndarray | None = None) -> np.ndarray:
    """Which images are the only one of their class, (N,) of bool; none for several labels or masks.

    group: of each image, (N,); then also the images of a class that is all in one group.
    """
    if isinstance(targets, Masks) or targets.ndim > 1:
        return np.zeros(len(targets), bool)
    _, label = np.unique(targets, return_inverse=True)
    number = np.arange(len(targets)) if group is None else np.unique(group.astype(str), return_inverse=True)[1]
    pairs = np.unique(np.stack([label, number], 1), axis=0)
    alone: np.ndarray = np.bincount(pairs[:, 0])[label] == 1
    return alone


def split(images: Images, fraction: float, seed: int = 0, most: int | None = None) -> tuple[Images, Images]:
    """The images in two parts: the rest, and the stratified part."""
    chosen = stratified(images.targets, images.names, fraction, seed, most)
    return images.take(np.flatnonzero(~chosen)), images.take(np.flatnonzero(chosen))


def image_set(
    name: str,
    classes: tuple[str, ...],
    splits: dict[str, Images],
    seed: int,
    notes: Sequence[str] = (),
    where: object = "",
) -> ImageSet:
    """A data set of "train" and optionally "valid" and "test", with notes on what it cannot measure.

    Without a validation split it takes a stratified fifth of the training images. If no class has two images, the
    training images also serve as validation images, and a note says so.
    where: what messages call the data. Raises DataError for a training or validation split without images.
    """
    if len(splits["train"]) == 0:
        raise DataError(f"no training images in {where or name}")
    if "valid" in splits and len(splits["valid"]) == 0:
        raise DataError(
            f"no validation images in {where or name}; add some, or leave that split out: then a fifth of the training "
            "images is used"
        )
    given = "valid" in splits
    train, targets = splits["train"], splits["train"].targets
    several = isinstance(targets, Masks) or targets.ndim > 1
    if not several and len(train) >= MANY_SINGLE and len(np.unique(np.asarray(targets))) == len(train):
        raise DataError(
            f"{len(classes)} classes in {len(train)} images of {where or name}, and no class has two images: are "
            f"{', '.join(classes[:3])} … classes? A classifier needs several images per class"
        )
    if not given:
        train, valid = split(splits["train"], VALID_FRACTION, seed)
        splits = {**splits, "train": train, "valid": valid if len(valid) else train}
    train, valid = splits["train"], splits["valid"]
    notes = (*notes, *notes_of(classes, train, valid))
    taken = not given and valid is not train
    return ImageSet(name, classes, train, valid, splits.get("test"), notes, validation="split" if taken else "given")


def notes_of(classes: tuple[str, ...], train: Images, valid: Images) -> list[str]:
    """Notes on what these splits cannot measure."""
    notes = []
    if valid is train:
        notes.append(
            "no class has two images, so validation uses the training images: its figures do not hold for new images"
        )
    if isinstance(train.targets, Masks) or isinstance(valid.targets, Masks):
        return notes
    trained, measured = (
        np.bincount(_labels(targets), minlength=len(classes)) for targets in (train.targets, valid.targets)
    )
    if single := [name for name, count in zip(classes, trained, strict=True) if count == 1]:
        notes.append(f"only one training image: {several(single)}")
    if absent := [name for name, count in zip(classes, measured, strict=True) if count == 0]:
        notes.append(f"no validation images, so nothing measures their accuracy: {several(absent)}")
    return notes


def _labels(targets: np.ndarray) -> np.ndarray:
    """All class numbers of all images."""
    return targets if targets.ndim == 1 else np.nonzero(targets)[1]


def chosen_splits(existing: Collection[str], choice: str, where: object) -> tuple[list[str], str]:
    """The existing splits to measure on, and the name for them together.

    choice: "all", "train", "valid" or "test"; "" for the test split, else validation, else all. Raises DataError for
        a split that does not exist.
    """
    choice = choice or next((name for name in ("test", "valid") if name in existing), "all")
    if choice == "all":
        return list(existing), choice
    if choice not in existing:
        raise DataError(f"{where} has no {choice} split; it has {', '.join(existing)}")
    return [choice], choice
