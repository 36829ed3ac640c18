"""Groups of images that belong together, such as frames of one video or pictures of one patient.

A model that has learned one image of a group knows the others, so a whole group goes to one split.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np

from frostline.data.decoding import Item
from frostline.data.images import Images, ImageSet, join
from frostline.data.readers.bucket import table_at
from frostline.data.readers.columns import Wanted
from frostline.data.readers.folder import SPLIT_OF
from frostline.data.readers.manifest import AS_IT_IS, read_column
from frostline.data.readers.table import ENDINGS, is_table
from frostline.data.split import VALID_FRACTION, notes_of, stratified, whole_groups
from frostline.errors import DataError
from frostline.remote import is_address

BY_NAME = "names"  # groups by the names of files
FRAMES = 3  # fewest images of a series
SEPARATOR = "[-_. ]"
NUMBERED = re.compile(rf"(.*\d.*?){SEPARATOR}+(?:[a-zA-Z]+{SEPARATOR}?)?(\d+)")  # patient12_003, video7-frame-0004
DENSE = 0.5  # least share of the numbers from the first to the last frame that must exist


def series_of(names: Sequence[str], *, told: bool = False) -> list[str]:
    """The series that each name looks like a frame of; "" for none.

    A series has a number, and so has each frame: patient12_003.png, video7-frame-0004.jpg. A series has at least three
    frames, numbered nearly without gaps or mostly by the same step. If two folders have the same frame names, each has
    its own series.
    told: the user says that these are series; then any two frames make one.

    >>> series_of(["video7_1.png", "video7_2.png", "video7_3.png", "1030023514_aad5c608f9.jpg", "cat_1.png"])
    ['video7', 'video7', 'video7', '', '']
    """
    frames: dict[str, Counter[int]] = defaultdict(Counter)
    found = []
    for name in names:
        path = PurePath(name)
        matched = NUMBERED.fullmatch(path.stem)
        found.append((_folder(path), matched[1], int(matched[2])) if matched else ("", "", 0))
        if matched:
            frames[matched[1]][int(matched[2])] += 1
    twice = {series for series, numbers in frames.items() if max(numbers.values()) > 1}
    own = [f"{folder}/{series}" if series in twice else series for folder, series, _ in found]
    members: dict[str, list[int]] = defaultdict(list)
    for series, (_, _, number) in zip(own, found, strict=True):
        members[series].append(number)
    good = {series for series, numbers in members.items() if series.rpartition("/")[2] and _counted(numbers, told)}
    return [series if series in good else "" for series in own]


def _folder(path: PurePath) -> str:
    """The folders of a file without the split folder, so that a series may span splits."""
    parts = path.parts[:-1]
    return "/".join(parts[1:] if parts and parts[0].lower() in SPLIT_OF else parts)


def _counted(numbers: Sequence[int], told: bool) -> bool:
    different = np.unique(numbers)
    if told or len(different) < FRAMES:
        return told and len(numbers) > 1
    _, often = np.unique(np.diff(different), return_counts=True)
    dense = len(different) >= DENSE * (different[-1] - different[0] + 1)
    return bool(dense or often.max() > len(different) / 2)


def groups_of(names: Sequence[str], by: str, data: object, wanted: Wanted = AS_IT_IS) -> dict[str, str]:
    """The group of each image, by its name; images without a group are left out.

    by: a column of the manifest `data`, or "names" for series recognised by file name.
    Raises DataError if the column does not exist, or if no names look like series.
    """
    if by == BY_NAME:
        found = {name: series for name, series in zip(names, series_of(names, told=True), strict=True) if series}
        if not found:
            raise DataError(f"no files of {data} look like a series (patient12_003.png); name a column of a manifest")
        return found
    if not is_table(data):
        raise DataError(f"--group {by} names a column of a manifest ({', '.join(ENDINGS)}), but {data} is not one")
    table = table_at(str(data)) if is_address(data) else Path(data) if isinstance(data, (str, Path)) else data
    column = read_column(table, by, wanted)
    found = {name: column[name] for name in names if column.get(name)}
    if not found:
        raise DataError(f"the column {by} of {data} is empty for all images")
    return found


def grouped(
    images: ImageSet, by: str, data: object, seed: int, wanted: Wanted = AS_IT_IS, store: Path | None = None
) -> ImageSet:
    """The images with their groups; unless the data has its own splits, each group is in one split.

    store: remembers the digests of files.
    Raises DataError like `groups_of`, if no two images share a group, and if no group can be held out.
    """
    groups = groups_of([name for part in images.splits.values() for name in part.names], by, data, wanted)
    if len(set(groups.values())) == len(groups):
        raise DataError(f"the column {by} of {data} has a different value for each image, so it groups nothing")
    images = replace(images, groups=_with_copies(groups, images, store))
    if images.validation != "split":
        return images
    whole = join([images.train, images.valid])
    held_out = whole_groups(whole.targets, alone(whole.names, images.groups), VALID_FRACTION, seed)
    if not held_out.any():
        raise DataError(f"no group of {data} ({by}) can be held out: a class would lose its last training group")
    train, valid = (whole.take(np.flatnonzero(part)) for part in (~held_out, held_out))
    return _parted(images, train, valid)


def _with_copies(groups: Mapping[str, str], images: ImageSet, store: Path | None) -> dict[str, str]:
    """The groups, in which groups that share an image, byte for byte, are one, and an image is with its copies."""
    whole = join(list(images.splits.values()))
    if isinstance(whole.pictures[0], Item):
        return dict(groups)
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while (above := parent.get(name, name)) != name:
            name = above
        return name

    own, contents = alone(whole.names, groups), whole.digests.contents(store)
    for group, first in zip(own, contents.tolist(), strict=True):
        low, high = sorted((root(group), root(own[first])))
        parent[high] = low
    copied = np.bincount(contents, minlength=len(contents))[contents] > 1
    return {
        name: root(group)
        for name, group, twice in zip(whole.names, own, copied.tolist(), strict=True)
        if twice or name in groups
    }


def membership(names: Sequence[str], groups: Mapping[str, str]) -> np.ndarray | None:
    """The number of each image's group, (N,); an image without a group is a group of one. None without groups.

    groups: by the name of an image.
    """
    return np.unique(np.array(alone(names, groups)), return_inverse=True)[1] if groups else None


def same_content(images: Images) -> np.ndarray | None:
    """Which images are the same, byte for byte: the number of the content of each, (N,); None where none are.

    A fold that holds one of them out and learns from the other would measure what it has seen.
    """
    _, number = np.unique(images.digests.contents(), return_inverse=True)
    contents: np.ndarray = number.ravel()
    return contents if len(contents) and int(contents.max()) + 1 < len(contents) else None


def copies_together(images: ImageSet, seed: int, store: Path | None = None) -> ImageSet:
    """The images, with all copies of an image on one side of a split that was taken off the training images.

    Otherwise validation would measure what training has seen. Items of Datasets are left as they are: comparing them
    would decode each twice. store: remembers the digests of files.
    """
    if images.validation != "split" or isinstance(images.train.pictures[0], Item):
        return images
    whole = join([images.train, images.valid])
    contents = whole.digests.contents(store)
    held_out, share = np.arange(len(whole)) >= len(images.train), len(images.valid) / len(whole)
    parted = np.isin(contents[held_out], contents[~held_out]).any()
    if parted:
        held_out = stratified(whole.targets, whole.names, share, seed, contents=contents)
    if not held_out.any():  # all images are copies of one another, which is said by `checks`
        return images
    train, valid = (whole.take(np.flatnonzero(part)) for part in (~held_out, held_out))  # they keep their digests
    return _parted(images, train, valid) if parted else replace(images, train=train, valid=valid)


def _parted(images: ImageSet, train: Images, valid: Images) -> ImageSet:
    """The images with other parts, and the notes on them."""
    old = notes_of(images.classes, images.train, images.valid)
    kept = [note for note in images.notes if note not in old]
    return replace(images, train=train, valid=valid, notes=(*kept, *notes_of(images.classes, train, valid)))


def alone(names: Sequence[str], groups: Mapping[str, str]) -> list[str]:
    """The group of each image; an image without a group is a group of one."""
    return [groups.get(name) or f"/{name}" for name in names]  # no group of a manifest begins with "/" by chance
