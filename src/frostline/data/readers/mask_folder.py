"""Folders of images beside folders of masks, with or without splits above or below them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from frostline import terminal
from frostline.data.decoding import SUFFIXES
from frostline.data.images import Images, ImageSet
from frostline.data.readers.folder import Sides, files_below, image_files, sides_of, split_folders
from frostline.data.readers.mask_files import Key, Pairs, mask_set, matched, read_key, some_of
from frostline.data.split import chosen_splits
from frostline.errors import DataError

MASKS = ("masks", "annotations", "labels")
MARKED = re.compile(r"(.+)[-_](?:mask|label|seg)", re.IGNORECASE)  # a name that marks a mask
FIRST = 200  # files that are looked at to find masks among the images


def read_mask_folder(root: Path, seed: int) -> ImageSet | None:
    """A data set from images and their masks; None for a folder with another layout.

    The images are in `root/images/…`, `root/{train,val,test}/images/…` or `root/images/{train,val,test}/…`. A mask has
    the name of its image, except for the extension, and the same path below `masks` (or `annotations`, or `labels`).
    With `_mask`, `-mask`, `_label` or `_seg` after its name it may be there or beside its image.
    The file classes.txt or classes.json names the classes of the values (`read_key`).
    Without validation images it uses a fifth of the training images. Raises DataError for images without masks, and
    like `mask_set`.
    """
    folders = _folders(root)
    if not folders:
        return None
    if "train" not in folders:
        raise DataError(
            f"{root} has masks for {', '.join(folders)} but none for training; expected {root}/train/images"
        )
    splits, notes = {}, []
    for split, sides in folders.items():
        splits[split], note = _pairs(sides, root)
        notes += note
    return mask_set(root.name or str(root), splits, _key(root, folders), seed, tuple(notes))


def read_mask_folder_for(root: Path, classes: tuple[str, ...], choice: str) -> tuple[Images, str]:
    """Images to measure a segmentation on, their masks matched to its classes by name, and the name of their split.

    choice: "all", "train", "valid" or "test"; "" for the test split, else validation, else all. Prints notes.
    """
    folders = _folders(root)
    if not folders:
        raise DataError(f"no masks under {root}; expected {root}/images/NAME.jpg and {root}/masks/NAME.png")
    names, choice = chosen_splits(folders, choice, root)
    both = [_pairs(folders[name], root) for name in names]
    parts = [part for part, _ in both]
    for note in (note for _, notes in both for note in notes):
        terminal.say(f"note: {note}")
    pairs = Pairs(
        [image for part in parts for image in part.images],
        [mask for part in parts for mask in part.masks],
        [name for part in parts for name in part.names],
    )
    return matched(pairs, _key(root, folders), classes, root), choice


def _folders(root: Path) -> dict[str, Sides]:
    """The images and masks of every split ("train" without splits); empty without masks."""
    folders, bare = sides_of(root, MASKS, _is_mask)
    if bare:
        raise DataError(f"{', '.join(bare)} needs both images and masks, like the other splits of {root}")
    if folders:
        return folders
    splits = split_folders(root) or {"train": root}
    return {split: (folder, folder) for split, folder in splits.items() if _together(folder)}


def _together(folder: Path) -> bool:
    """Whether masks lie beside their images (x_mask.png beside x.jpg), by the names of the first files."""
    files = [file for file in itertools.islice(files_below(folder), FIRST) if _is_mask(file)]
    marked = [file for file in files if MARKED.fullmatch(file.stem)]
    stems = {file.with_suffix("") for file in files}
    return any(_plain(file) in stems for file in marked)


def _plain(mask: Path) -> Path:
    """The path of the image of a mask, without its extension."""
    match = MARKED.fullmatch(mask.stem)
    return mask.with_name(match[1] if match else mask.stem)


def _is_mask(file: Path) -> bool:
    return file.suffix.lower() in (*SUFFIXES, ".gif")


def _mask_files(folder: Path) -> Iterator[Path]:
    return filter(_is_mask, files_below(folder))


def _key(root: Path, folders: dict[str, Sides]) -> Key:
    masks = [masks for _, masks in folders.values()]
    return read_key([root, *masks, *(folder.parent for folder in masks)])


def _pairs(sides: Sides, root: Path) -> tuple[Pairs, list[str]]:
    """Images with their masks, and notes on masks without an image."""
    folder, beside = sides
    files = list(_mask_files(beside))
    images = list(image_files(folder))
    if folder == beside:
        files = [file for file in files if MARKED.fullmatch(file.stem)]
        images = [image for image in images if not MARKED.fullmatch(image.stem)]
    wanted = {image.relative_to(folder).with_suffix("") for image in images}
    masks: dict[Path, list[Path]] = {}
    for mask in files:
        stem, plain = mask.relative_to(beside).with_suffix(""), _plain(mask).relative_to(beside)
        masks.setdefault(plain if stem not in wanted and plain in wanted else stem, []).append(mask)
    if twice := [stem for stem in wanted if len(masks.get(stem, ())) > 1]:
        faults = [f"{stem} has {' and '.join(mask.name for mask in masks[stem])}" for stem in sorted(twice)]
        raise DataError(f"{len(twice)} images of {folder} have more than one mask: {some_of(faults)}; keep one of each")
    stems = [image.relative_to(folder).with_suffix("") for image in images]
    bare = [str(image) for image, stem in zip(images, stems, strict=True) if stem not in masks]
    if bare:
        first = Path(bare[0]).relative_to(folder)
        example = beside / (
            first.with_name(f"{first.stem}_mask.png") if folder == beside else first.with_suffix(".png")
        )
        raise DataError(f"{len(bare)} of {len(images)} images have no mask: {some_of(bare)}; expected {example}")
    extra = sorted(str(mask.relative_to(root)) for stem in masks.keys() - wanted for mask in masks[stem])
    notes = [f"{len(extra)} mask{'s' * (len(extra) > 1)} without an image: {some_of(extra)}"] if extra else []
    names = [str(image.relative_to(root)) for image in images]
    return Pairs(images, [masks[stem][0] for stem in stems], names), notes
