"""Images that belong together, as the frames of one video or the pictures of one patient do.

What is learned of one of them is asked of the next, so a group goes to one split as a whole.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np

from frostline.data.images import Images, ImageSet, join
from frostline.data.readers.manifest import ENDINGS, read_column
from frostline.data.split import VALID_FRACTION, stratified
from frostline.errors import DataError

BY_NAME = "names"  # groups that the names of files tell
FRAMES = 3  # images of a series, at least
SEPARATOR = "[-_. ]"
NUMBERED = re.compile(rf"(.*\d.*?){SEPARATOR}+(?:[a-zA-Z]+{SEPARATOR}?)?(\d+)")  # patient12_003, video7-frame-0004
DENSE = 0.5  # of the numbers from the first to the last frame, at least so many are there


def series_of(names: Sequence[str]) -> list[str]:
    """Of each name the series that it looks like a frame of; "" where it looks like none.

    A series has a number of its own, and its frames are counted: patient12_003.png, video7-frame-0004.jpg. At least
    three frames, whose numbers follow each other nearly without a gap.

    >>> series_of(["video7_1.png", "video7_2.png", "video7_3.png", "1030023514_aad5c608f9.jpg", "cat_1.png"])
    ['video7', 'video7', 'video7', '', '']
    """
    frames: dict[str, list[int]] = defaultdict(list)
    found = []
    for name in names:
        matched = NUMBERED.fullmatch(PurePath(name).stem)
        series = matched[1] if matched else ""
        found.append(series)
        if matched:
            frames[series].append(int(matched[2]))
    good = {series for series, numbers in frames.items() if _counted(numbers)}
    return [series if series in good else "" for series in found]


def _counted(numbers: Sequence[int]) -> bool:
    different = len(set(numbers))
    return different >= FRAMES and different >= DENSE * (max(numbers) - min(numbers) + 1)


def groups_of(names: Sequence[str], by: str, data: object) -> dict[str, str]:
    """The group of each image by its name; without those that belong to none.

    by: a column of the manifest `data`, or "names" for series that the names of the files tell.
    Raises DataError where there is no such column, and where no two images belong together.
    """
    if by == BY_NAME:
        found = {name: series for name, series in zip(names, series_of(names), strict=True) if series}
        if not found:
            raise DataError(f"no files of {data} look like series, as patient12_003.png; name a column of a manifest")
        return found
    if not isinstance(data, (str, Path)) or Path(data).suffix.lower() not in ENDINGS:
        raise DataError(f"--group {by} is a column of a manifest ({', '.join(ENDINGS)}), and {data} is none")
    column = read_column(Path(data), by)
    found = {name: column[name] for name in names if column.get(name)}
    if len(set(found.values())) == len(found):
        raise DataError(f"the column {by} of {data} has another value for each image; no two belong together")
    return found


def grouped(images: ImageSet, by: str, data: object, seed: int) -> ImageSet:
    """The images with their groups, each of them in one split where the splits were not given.

    Raises DataError as `groups_of` does, and where no group can be held out.
    """
    groups = groups_of([name for part in images.splits.values() for name in part.names], by, data)
    images = replace(images, groups=groups)
    if images.validation != "split":
        return images
    whole = join([images.train, images.valid])
    held_out = _held_out(whole, groups, seed)
    if not held_out.any() or held_out.all():
        raise DataError(f"all images of {data} are of one group ({by}); none can be held out")
    train, valid = (whole.take(np.flatnonzero(part)) for part in (~held_out, held_out))
    return images.with_splits({"train": train, "valid": valid})


def _held_out(images: Images, groups: Mapping[str, str], seed: int) -> np.ndarray:
    """A stratified fifth of the groups, (N,) of bool: each counts as an image of the class of most of its images."""
    names = [groups.get(name) or f"/{name}" for name in images.names]  # a file's name has no "/" in front
    own, first, of = np.unique(names, return_index=True, return_inverse=True)
    targets = images.targets
    if isinstance(targets, np.ndarray) and targets.ndim == 1:
        counts = np.zeros((len(own), int(targets.max()) + 1), np.int64)
        np.add.at(counts, (of, targets), 1)
        chosen = stratified(counts.argmax(1), own.tolist(), VALID_FRACTION, seed)
    else:
        chosen = stratified(targets[first], own.tolist(), VALID_FRACTION, seed)
    result: np.ndarray = chosen[of]
    return result
