"""COCO's JSON files as tables: an image has the labels of what is marked in it, wherever that is."""

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
NAMES = ("annotations", "coco", "instances")  # one of them is a word of the file's name, or it is called by its split
OTHERS = ("captions", "keypoints", "panoptic", "stuff", "image", "results")  # words of what COCO has besides
KEYS = ("images", "annotations", "categories")
TRIED = 50  # images by which their folder is found
SHOWN = 5  # of many

Row = tuple[str, Sequence[str], str]


def coco_table(path: Path, images: Path | None = None) -> Table | None:
    """The table of a COCO file, or of those in a folder; None where there are none.

    path: the file; or a folder with `annotations.json`, `annotations/instances_train2017.json` and so on, or
        `_annotations.coco.json` in a folder for each split (Roboflow). The name of a file, else that of its folder,
        tells its split. images: the folder of the images, where they are not near the file.
    Each image has the names of the categories of all its annotations, crowds included; boxes and outlines are not used.
    Images without an annotation are left out, and so are annotations of images that are not listed; notes say both.

    Raises DataError, with the file, for what is no JSON, for keys that lack, and for ids that are given twice or are
    those of nothing.
    """
    files = {"": path} if path.is_file() else _files(path)
    contents = {split: (file, _read(file, must=path.is_file())) for split, file in files.items()}
    found = {split: (file, content) for split, (file, content) in contents.items() if content is not None}
    if not found:
        return None
    root = images or (path if path.is_dir() else path.parent)
    near = [images] if images else [path] if path.is_dir() else [path.parent, path.parent.parent]
    rows: list[Row] = []
    notes = ["of boxes and outlines only the category counts: an image has a label for each that is in it"]
    for split, (file, content) in found.items():
        labels, own = _labels(content, file)
        notes += own
        place = _place(list(labels), file, split, near if images else [file.parent, *near])
        root = root if place.is_relative_to(root) else place  # of a file alone: its images lie beside its folder
        below = place.relative_to(root)
        rows += [((below / name).as_posix(), held, split) for name, held in labels.items()]
    return listed(path, root, rows, tuple(notes))


def _files(root: Path) -> dict[str, Path]:
    """The file of each split, "train" of those whose name tells none; "" where there is one file only."""
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
                f"{root} has several COCO files {f'for {split}' if split else 'without the name of a split'}: "
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
    """What a file holds; None of another kind of JSON, unless somebody says that it is COCO's."""
    try:
        content = json.loads(file.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is no JSON ({reason(error)}); export it again") from error
    lacking = [key for key in KEYS if not isinstance(content, dict) or key not in content]
    if len(lacking) == len(KEYS) and not must:
        return None
    if lacking:
        raise DataError(
            f"{file} lacks {', '.join(lacking)}; a COCO file has {', '.join(KEYS)}: export it again as such"
        )
    return dict(content)


def _entries(content: dict[str, Any], key: str, needed: Sequence[str], file: Path) -> Iterator[tuple[str, ...]]:
    """Of each object of a list the values that it must have, as text."""
    entries = content[key]
    if not isinstance(entries, list):
        raise DataError(f"{file}: {key} is no list; export it again as COCO")
    for number, entry in enumerate(entries):
        values = [_text(entry.get(name)) if isinstance(entry, dict) else "" for name in needed]
        if "" in values:
            lacks = needed[values.index("")]
            raise DataError(f"{file}: {key}[{number}] has no {lacks}; each needs {', '.join(needed)}")
        yield tuple(values)


def _text(value: object) -> str:
    """A name or an id as text, 3 of 3.0; "" of anything else."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _labels(content: dict[str, Any], file: Path) -> tuple[dict[str, list[str]], list[str]]:
    """The labels of each image by its file's name, and notes on what is left out."""
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
            f"{file}: {len(strange)} annotation{'s' * (len(strange) > 1)} of a category that is not listed "
            f"(category_id {_some(sorted(set(strange)))}); the categories are "
            f"{_some([f'{number} = {name}' for number, name in names.items()])}: add it, or take the annotations out"
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
            raise DataError(
                f"{file}: the id {number} of {key} is given to {found[number]} and {name}; each needs its own"
            )
    return found


def _left_out(bare: Sequence[str], name: str) -> list[str]:
    if not bare:
        return []
    many = f"{len(bare)} images of {name} have no annotation and are"
    one = f"1 image of {name} has no annotation and is"
    return [f"{many if len(bare) > 1 else one} left out: {_some(bare)}"]


def _strays(stray: Sequence[str], name: str) -> list[str]:
    ids = _some(sorted(set(stray)))
    many = f"{len(stray)} annotations" if len(stray) > 1 else "1 annotation"
    return [f"{many} of {name} passed over: no image has the id {ids}"] if stray else []


def _unused(names: dict[str, str], labels: dict[str, list[str]], name: str) -> list[str]:
    used = {label for held in labels.values() for label in held}
    unused = sorted(set(names.values()) - used)
    return [f"no annotation of {name} has the category {_some(unused)}"] if unused else []


def _some(values: Sequence[str]) -> str:
    return ", ".join(values[:SHOWN]) + " …" * (len(values) > SHOWN)


def _place(names: Sequence[str], file: Path, split: str, near: Sequence[Path]) -> Path:
    """The folder that the names of files are relative to: one of those, or below, that has most of the first images."""
    own = [word for word in re.findall("[a-z]+[0-9]*", file.stem.lower()) if word.rstrip("0123456789") in SPLIT_OF]
    splits = [*own, *SPLITS.get(split, ())]
    subs = ["", *(sub for each in splits for sub in (each, f"images/{each}", f"{each}/images")), "images"]
    places = [base / sub for base in near for sub in subs]
    first = names[:TRIED]
    return max(places, key=lambda place: sum(is_file(place, name) for name in first))
