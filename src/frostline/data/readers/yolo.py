"""YOLO's label files as tables: an image has the labels of all its marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from frostline.data.readers.folder import SPLIT_OF, Sides, files_below, image_files, sides_of
from frostline.data.readers.table import Table, listed
from frostline.errors import DataError, reason

DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
LABELS = ("labels",)
CLASSES = "classes.txt"  # from labelImg: one class per line
NOTE = "boxes and outlines are not used: each image is labelled with the classes of its marks"

Names = Mapping[int, str]
Row = tuple[str, Sequence[str], str]


def yolo_table(path: Path) -> Table | None:
    """The table of a folder of images with one text file of marks per image; None for another layout.

    path: the folder, or its `data.yaml`, whose `names` are the class names. The images are in the folders that `train`,
        `val` and `test` in that file name, else in `images/…`, `train/images/…` or `images/train/…`; their marks have
        the same names in `labels`. Without `names` or a classes.txt the class numbers are the names.
    A line is a mark and begins with the number of a class. An image has the labels of all its marks; boxes and outlines
    are not used. Images without a mark are skipped, and a note reports them.

    Raises DataError, with the file and line, for a line that is not a mark, and for numbers without a name.
    """
    folder = path if path.is_dir() else path.parent
    file = next((f for name in DESCRIPTIONS if (f := folder / name).is_file()), None) if path.is_dir() else path
    laid_out, bare = sides_of(folder, LABELS, _is_marks)
    said = _read(file, must=bool(laid_out) or path.is_file()) if file else {}
    root = folder / str(said.get("path") or "")
    root = root if root.is_dir() else folder
    if root != folder:
        laid_out, bare = sides_of(root, LABELS, _is_marks)
    sides = _said_sides(said, root) or laid_out
    if not sides and path.is_file():
        raise DataError(f"{path} has no images with labels; expected {root}/train/images and {root}/train/labels")
    if not sides:
        return None
    names, notes = _names(said, file, [root, *(labels for _, labels in sides.values())])
    notes += _unused(sides, laid_out, bare, file)
    rows: list[Row] = []
    for split, each in sides.items():
        own, skipped = _rows(each, root, split if len(sides) > 1 else "", names)
        rows += own
        notes += skipped
    if not rows:
        raise DataError(f"no image of {path} has a mark; there is nothing to learn from it")
    return listed(path, root, rows, (NOTE, *notes))


def _read(file: Path, must: bool) -> dict[str, Any]:
    """The entries of a description; empty if it cannot be read, unless `must` is set.

    Names of classes are the text that was written: for YAML no, on and 010 are False, True and 8.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        said = yaml.safe_load(text)
        if isinstance(said, dict) and isinstance(said.get("names"), list | dict):
            said["names"] = yaml.BaseLoader(text).get_single_data()["names"]  # makes only texts
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        if not must:
            return {}
        raise DataError(f"{file} is not valid YAML ({reason(error)}); it needs names: [cat, dog]") from error
    if must and not isinstance(said, dict):
        raise DataError(f"{file} has no named entries; it needs names: [cat, dog]")
    return said if isinstance(said, dict) else {}


def _said_sides(said: Mapping[str, Any], root: Path) -> dict[str, Sides]:
    """The folders of images and labels that a data.yaml names, if they exist and differ."""
    sides: dict[str, Sides] = {}
    for key, split in SPLIT_OF.items():
        entry = said.get(key)
        if not isinstance(entry, str) or not entry:
            continue
        below = PurePosixPath(*[part for part in PurePosixPath(entry).parts if part not in ("..", "/")])
        images = root / below  # Roboflow writes ../train/images for a folder beside the file
        images = images / "images" if (images / "images").is_dir() else images
        parts = images.relative_to(root).parts
        if "images" not in parts or not images.is_dir() or images in [other for other, _ in sides.values()]:
            continue
        last = len(parts) - 1 - parts[::-1].index("images")
        labels = root.joinpath(*parts[:last], "labels", *parts[last + 1 :])
        if labels.is_dir():
            sides.setdefault(split, (images, labels))
    return sides if "train" in sides else {}


def _unused(
    sides: Mapping[str, Sides], laid_out: Mapping[str, Sides], bare: Sequence[str], file: Path | None
) -> list[str]:
    """Notes on folders of splits that are not used: others than the description names, or without images or labels."""
    used = [images for images, _ in sides.values()]
    notes = [
        f"{images.parent.name}/{images.name}/ is not used: {file.name if file else 'no file'} does not name it"
        for images, _ in laid_out.values()
        if not any(images.is_relative_to(other) or other.is_relative_to(images) for other in used)
    ]
    lacking = [folder for folder in bare if not any(other.is_relative_to(folder) for other in used)]
    return notes + [f"{folder} is not used: it needs both images and labels" for folder in lacking]


def _is_marks(file: Path) -> bool:
    return file.suffix.lower() == ".txt" and file.name != CLASSES


def _names(said: Mapping[str, Any], file: Path | None, folders: Sequence[Path]) -> tuple[Names | None, list[str]]:
    """The names of the class numbers, None if no file has them; and a note on that."""
    given = said.get("names")
    if given is None:
        listing = next((f for folder in folders if (f := folder / CLASSES).is_file()), None)
        if listing is None:
            return None, ["no class names: write data.yaml beside the images, with names: [cat, dog]"]
        file, given = listing, listing.read_text(encoding="utf-8-sig", errors="replace").split("\n")
        given = {number: line for number, line in enumerate(given) if line.strip()}  # an empty line counts as well
    try:
        pairs = given.items() if isinstance(given, dict) else enumerate(given)
        found = {int(key): str(name).strip() for key, name in pairs}
    except (TypeError, ValueError):
        raise DataError(
            f"{file}: names is {given!r}; it must be a list like [cat, dog], or numbers with names"
        ) from None
    if isinstance(given, str) or "" in found.values() or len(set(found.values())) < len(found):
        raise DataError(f"{file}: names has a duplicate or empty name: {given!r}; each class needs its own")
    return found, []


def _rows(sides: Sides, root: Path, split: str, names: Names | None) -> tuple[list[Row], list[str]]:
    """The labelled images of a split, and notes on unlabelled images and on labels without an image."""
    images, labels = sides
    marks = {file.relative_to(labels).with_suffix(""): file for file in files_below(labels) if _is_marks(file)}
    rows: list[Row] = []
    bare: list[str] = []
    for image in image_files(images):
        file = marks.pop(image.relative_to(images).with_suffix(""), None)
        name = image.relative_to(root).as_posix()
        if held := _labels(file, names) if file else []:
            rows.append((name, held, split))
        else:
            bare.append(name)
    stray = sorted(str(file.relative_to(root)) for file in marks.values())
    notes = [f"skipped {_many(bare, 'image')} without a mark: {_some(bare)}"] if bare else []
    return rows, notes + ([f"skipped {_many(stray, 'label file')} without an image: {_some(stray)}"] if stray else [])


def _labels(file: Path, names: Names | None) -> list[str]:
    """The names of the classes marked in an image."""
    found = set()
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").split("\n"), 1):
        words = line.split()
        if not words:
            continue
        if not words[0].isdecimal():
            raise DataError(
                f"{file}, line {number}: {line.strip()[:60]!r}; a mark needs class number, x, y, width, height"
            )
        if names is not None and int(words[0]) not in names:
            known = ", ".join(f"{key} = {name}" for key, name in list(names.items())[:5])
            raise DataError(f"{file}, line {number}: the class {words[0]} has no name; the names are {known}")
        found.add(names[int(words[0])] if names is not None else words[0])
    return sorted(found)


def _many(values: Sequence[str], what: str) -> str:
    return f"{len(values)} {what}{'s' * (len(values) > 1)}"


def _some(values: Sequence[str]) -> str:
    return ", ".join(values[:3]) + " …" * (len(values) > 3)
