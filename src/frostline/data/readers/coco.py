"""COCO's JSON files as tables: an image has the labels of all its annotations."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from frostline.data.readers.columns import is_file
from frostline.data.readers.folder import SPLIT_OF, SPLITS, subfolder
from frostline.data.readers.table import Table, listed
from frostline.errors import DataError, reason

FOLDERS = ("annotations",)
NAMES = ("annotations", "coco", "instances")  # the file's name contains one of these words or a split
OTHERS = ("captions", "keypoints", "panoptic", "stuff", "image", "results")  # words in names of COCO's other files
KEYS = ("images", "annotations", "categories")
TRIED = 50  # images that are looked up to find their folder
SHOWN = 5  # most names in a message

Row = tuple[str, Sequence[str], str]


def coco_table(path: Path, images: Path | None = None) -> Table | None:
    """The table of a COCO file, or of the COCO files in a folder; None without such a file.

    path: the file; or a folder with `annotations.json`, `annotations/instances_train2017.json` and so on, or
        `_annotations.coco.json` in a folder for each split (Roboflow). The name of the file, else of its folder, gives
        the split. images: the folder of the images, if they are not near the file.
    Each image has the category names of all its annotations, crowds included; boxes and outlines are not used.
    Images without an annotation and annotations of unlisted images are skipped; notes report both.

    Raises DataError with the file's name for invalid JSON, missing keys, duplicate ids and unknown ids.
    """
    files = {"": path} if path.is_file() else _files(path)
    contents = {split: (file, _read(file, must=path.is_file())) for split, file in files.items()}
    found = {split: (file, content) for split, (file, content) in contents.items() if content is not None}
    if not found:
        return None
    root = images or (path if path.is_dir() else path.parent)
    near = [images] if images else [path] if path.is_dir() else [path.parent, path.parent.parent]
    rows: list[Row] = []
    notes = ["boxes and outlines are not used: each image is labelled with the categories of its annotations"]
    for split, (file, content) in found.items():
        labels, own = _labels(content, file)
        notes += own
        place = _place(list(labels), file, split, near if images else [file.parent, *near])
        root = (
            root if place.is_relative_to(root) else place
        )  # for a single file, whose images may lie beside its folder
        below = place.relative_to(root)
        rows += [((below / name).as_posix(), held, split) for name, held in labels.items()]
    return listed(path, root, rows, tuple(notes))


def _files(root: Path) -> dict[str, Path]:
    """The file of each split; a file whose name has no split is for "train", or for "" if it is the only one."""
    folders = [(root, ""), *((sub, "") for sub in [subfolder(root, FOLDERS)] if sub)]
    folders += [(sub, split) for split, names in SPLITS.items() if (sub := subfolder(root, names))]
    found: dict[str, list[Path]] = {}
    for folder, split in folders:
        for file in sorted(folder.glob("*.json")):
            words = _words(file)
            if not set(words) & set(OTHERS) and (set(words) & {*NAMES, *SPLIT_OF}):
                found.setdefault(_split(words) or split, []).append(file)
    for split, files in found.items():
        best = [file for file in files if "instances" in _words(file)] or files
        if len(best) > 1:
            raise DataError(
                f"{root} has several COCO files {f'for {split}' if split else 'without a split in their name'}: "
                f"{', '.join(str(file.relative_to(root)) for file in best[:SHOWN])}; give one of them as DATA"
            )
        found[split] = best
    if len(found) > 1 and "" in found:
        found.setdefault("train", found[""])
        del found[""]
    return {split: file for split, (file,) in found.items()}


def _words(file: Path) -> list[str]:
    return re.findall("[a-z]+", file.stem.lower())


def _split(words: Sequence[str]) -> str:
    return next((SPLIT_OF[word] for word in words if word in SPLIT_OF), "")


def _read(file: Path, must: bool) -> dict[str, Any] | None:
    """The content of a file; None for JSON that is not COCO's, unless `must` is set."""
    try:
        content = json.loads(file.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is not valid JSON ({reason(error)}); export it again") from error
    lacking = [key for key in KEYS if not isinstance(content, dict) or key not in content]
    if len(lacking) == len(KEYS) and not must:
        return None
    if lacking:
        raise DataError(
            f"{file} lacks {', '.join(lacking)}; a COCO file has {', '.join(KEYS)}: export it again as COCO"
        )
    return dict(content)


def _entries(content: dict[str, Any], key: str, needed: Sequence[str], file: Path) -> Iterator[tuple[str, ...]]:
    """The required values of each object in a list, as text."""
    entries = content[key]
    if not isinstance(entries, list):
        raise DataError(f"{file}: {key} is not a list; export it again as COCO")
    for number, entry in enumerate(entries):
        values = [_text(entry.get(name)) if isinstance(entry, dict) else "" for name in needed]
        if "" in values:
            lacks = needed[values.index("")]
            raise DataError(f"{file}: {key}[{number}] has no {lacks}; each needs {', '.join(needed)}")
        yield tuple(values)


def _text(value: object) -> str:
    """A name or an id as text ("3" for 3.0); "" for anything else."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _labels(content: dict[str, Any], file: Path) -> tuple[dict[str, list[str]], list[str]]:
    """The labels of each image, by file name, and notes on skipped entries."""
    names = _by_id(content, "categories", "name", file)
    pictures = _by_id(content, "images", "file_name", file)
    (again, often), *_ = [*Counter(pictures.values()).most_common(1), ("", 0)]
    if often > 1:
        raise DataError(f"{file} lists {again} {often} times, with different ids; list each image once")
    marked: dict[str, set[str]] = {number: set() for number in pictures}
    strange: list[str] = []
    stray: list[str] = []
    for image, category in _entries(content, "annotations", ("image_id", "category_id"), file):
        if category not in names:
            strange.append(category)
        elif image in marked:
            marked[image].add(names[category])
        else:
            stray.append(image)
    if strange:
        raise DataError(
            f"{file}: {len(strange)} annotation{'s' * (len(strange) > 1)} with an unknown category "
            f"(category_id {_some(sorted(set(strange)))}); the categories are "
            f"{_some([f'{number} = {name}' for number, name in names.items()])}: add it, or remove the annotations"
        )
    bare = [pictures[number] for number, held in marked.items() if not held]
    labels = {pictures[number]: sorted(held) for number, held in marked.items() if held}
    if not labels:
        raise DataError(f"{file} has no image with an annotation; there is nothing to learn from it")
    return labels, [*_left_out(bare, file.name), *_strays(stray, file.name), *_unused(names, labels, file.name)]


def _by_id(content: dict[str, Any], key: str, what: str, file: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, name in _entries(content, key, ("id", what), file):
        if found.setdefault(number, name) != name:
            raise DataError(f"{file}: {found[number]} and {name} share the id {number} in {key}; each needs its own")
    return found


def _left_out(bare: Sequence[str], name: str) -> list[str]:
    if not bare:
        return []
    return [f"skipped {len(bare)} image{'s' * (len(bare) > 1)} of {name} without an annotation: {_some(bare)}"]


def _strays(stray: Sequence[str], name: str) -> list[str]:
    ids = _some(sorted(set(stray)))
    many = f"{len(stray)} annotations" if len(stray) > 1 else "1 annotation"
    return [f"skipped {many} of {name}: no image has the id {ids}"] if stray else []


def _unused(names: dict[str, str], labels: dict[str, list[str]], name: str) -> list[str]:
    used = {label for held in labels.values() for label in held}
    unused = sorted(set(names.values()) - used)
    return [f"no annotation of {name} has the category {_some(unused)}"] if unused else []


def _some(values: Sequence[str]) -> str:
    return ", ".join(values[:SHOWN]) + " …" * (len(values) > SHOWN)


def _place(names: Sequence[str], file: Path, split: str, near: Sequence[Path]) -> Path:
    """The folder that file names are relative to: the one, near the file, that has most of the first images."""
    own = [word for word in re.findall("[a-z]+[0-9]*", file.stem.lower()) if word.rstrip("0123456789") in SPLIT_OF]
    splits = [*own, *SPLITS.get(split, ())]
    subs = ["", *(sub for each in splits for sub in (each, f"images/{each}", f"{each}/images")), "images"]
    places = [base / sub for base in near for sub in subs]
    first = names[:TRIED]
    return max(places, key=lambda place: sum(is_file(place, name) for name in first))
