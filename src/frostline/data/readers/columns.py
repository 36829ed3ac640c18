"""Find the role of each column of a table, by its name, by the options, or by its content."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from frostline.data.decoding import SUFFIXES
from frostline.data.parts import Bucket
from frostline.data.readers.table import Columns, Table, holds_objects
from frostline.errors import DataError
from frostline.remote import is_address

PATHS = ("path", "image", "file_name", "filename", "image_path", "filepath", "file", "img", "image_id", "id")
LABELS = ("label", "class", "labels", "choice", "category", "target", "class_name")
SPLIT, IS_VALID = "split", "is_valid"  # fastai's name of the second
FOLDS = ("fold", "folds", "kfold")  # columns that number the folds of a cross-validation
NO_CLASS = (*FOLDS, "train", "is_train", "val", "valid", "test", "is_test")  # columns of a split
MARKS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


LISTED = 50  # files of a folder from which on it is listed


@dataclass(frozen=True)
class Wanted:
    """Options for reading a table; "" and None stand for the defaults.

    path, label: names of columns. images: the folder that paths are relative to. group: a further column to use.
    """

    path: str = ""
    label: str = ""
    images: Path | None = None
    group: str = ""

    @property
    def of_manifests(self) -> list[str]:
        """The flags that only apply to tables."""
        flags = {"--path-column": self.path, "--label-column": self.label, "--images": self.images}
        return [flag for flag, value in flags.items() if value]


@dataclass(frozen=True)
class Roles:
    """The columns of the paths, of labels or masks, and of the split.

    marks: the columns of 0 and 1, one per class; then `target` is empty.
    unused: the columns without a role.
    """

    path: str
    target: str
    split: str
    marks: tuple[str, ...]
    unused: tuple[str, ...]


def roles_of(table: Table, wanted: Wanted, task: str) -> Roles:
    """The role of each column. task: the task to learn; "" to decide it by the columns.

    Raises DataError, with the columns found, if there are no paths or no labels.
    """
    columns = table.columns
    path = _asked(table, wanted.path, "--path-column") or _first(PATHS, columns)
    others = [name for name in columns if name not in (path, SPLIT, IS_VALID, _plain(wanted.group))]
    label = _asked(table, wanted.label, "--label-column") or _first(LABELS, others)
    mask = "mask" if "mask" in others else ""
    if label and mask and not task and not wanted.label:
        raise DataError(f"{table.name} has the columns {label} and mask; remove the one that you do not want to learn")
    target = mask if task == "segmentation" else label if task or wanted.label else label or mask
    marks = () if target or not path or task == "segmentation" else _marks(columns, others)
    if not path or not (target or marks):
        raise DataError(_lacking(table, path, task))
    split = _first((SPLIT, IS_VALID), columns)
    used = {path, target, split, *marks, _plain(wanted.group)}
    for name in filter(None, (path, target, split, _plain(wanted.group))):
        _refuse_objects(table, name, name in (path, mask))
    return Roles(path, target, split, marks, tuple(name for name in columns if name and name not in used))


def paths_of(table: Table) -> list[Path]:
    """The files that a table lists; raises DataError without a column of paths."""
    return [local(table.root) / str(text) for text in table.columns[path_column(table)]]


def path_column(table: Table) -> str:
    """The name of the column of paths; raises DataError without one."""
    column = _first(PATHS, table.columns)
    if not column:
        raise DataError(f"{table.name} has no path column (path, image, file_name). Found: {', '.join(table.columns)}")
    _refuse_objects(table, column, True)
    return column


def _refuse_objects(table: Table, name: str, of_paths: bool) -> None:
    """Raises DataError for a column of bytes or records, without a word of what is in it."""
    if name in table.columns and holds_objects(table.columns, name):
        if not of_paths:
            raise DataError(f"{table.name}: column {name} holds bytes or records, not text; name a column of texts")
        raise DataError(
            f"{table.name}: column {name} holds pictures, not paths; save the pictures as files and write their paths "
            "there, or name another column with --path-column"
        )


def _first(names: Sequence[str], columns: Collection[str]) -> str:
    """The first name that is a column; "" if none is."""
    return next((name for name in names if name in columns), "")


def _plain(name: str) -> str:
    return name.strip().lower()


def _asked(table: Table, name: str, flag: str) -> str:
    if name and _plain(name) not in table.columns:
        raise DataError(f"{table.name} has no column {name} ({flag}); it has {', '.join(table.columns)}")
    return _plain(name)


def _marks(columns: Columns, names: Sequence[str]) -> tuple[str, ...]:
    """The columns of 0 and 1, one per class; empty if fewer than two."""
    names = [name for name in names if name.replace("-", "_") not in NO_CLASS and not holds_objects(columns, name)]
    found = [name for name in names if {str(value).strip().lower() for value in columns[name]} <= MARKS.keys()]
    return tuple(found) if len(found) > 1 else ()


def marked(columns: Columns, marks: Sequence[str]) -> list[list[str]]:
    """The labels of each record in a table with a column of 0 and 1 per class."""
    rows = zip(*(columns[name] for name in marks), strict=True)
    return [[name for name, value in zip(marks, row, strict=True) if MARKS[str(value).strip().lower()]] for row in rows]


def notes_of_unused(columns: Sequence[str]) -> list[str]:
    """A note on ignored columns, if any."""
    if not columns:
        return []
    folds = [name for name in columns if name.replace("_", "").replace("-", "") in FOLDS]
    hint = "; to hold out one fold, add a column split with val for that fold and train for the others"
    return [f"ignored column{'s' * (len(columns) > 1)} {', '.join(columns)}" + (hint if folds else "")]


def _lacking(table: Table, path: str, task: str) -> str:
    found = f"Found: {', '.join(table.columns)}"
    if names := [name for name in table.columns if name.lower().endswith(SUFFIXES)]:
        return f"{table.name} has no header line: it begins with {names[0]}; write path,label above it"
    if not path:
        other = "name yours with --path-column"
        return f"{table.name} has no path column (path, image, file_name or filename). {found}; {other}"
    if task == "segmentation":
        return f"{table.name} has no mask column. {found}; call it mask"
    right = "label column (label, class or labels)" + " and no mask column" * (not task)
    return f"{table.name} has no {right}. {found}; name yours with --label-column"


def paths_in(table: Table, root: Path | Bucket, column: str) -> list[str]:
    """The paths of a column below the root, whose spelling decides nothing: the split depends on them.

    Each must stay in the folder of the images, because the table is not trusted.
    """
    texts = []
    for line, value in zip(table.lines, table.columns[column], strict=True):
        text = value.strip() if isinstance(value, str) else text_of(table.where(line), column, value)
        if not text:
            raise DataError(f"{table.where(line)}: the path is missing")
        texts.append(text)
    result = []
    for line, text in zip(table.lines, with_endings(root, texts), strict=True):
        below = _below(root, text) if _is_odd(text) else text
        if below is None:
            raise DataError(
                f"{table.where(line)}: {text} leads out of {called(root)}; put the manifest above the images, or name "
                "a folder above them with --images"
            )
        result.append(below)
    return result


def called(root: Path | Bucket) -> str:
    return "the current folder" if root == Path() else str(root)


def _below(root: Path | Bucket, text: str) -> str | None:
    """A path relative to the root, in its plainest spelling; None if it leads out of the root."""
    if isinstance(root, Bucket):
        below = PurePosixPath(text.removeprefix(f"{root}/"))
        return None if below.is_absolute() or ".." in below.parts or ":/" in str(below) else str(below)
    path = Path(text)
    if ".." in path.parts:
        return None
    if is_address(text):  # told as it is written where it is missing
        return text
    if not path.anchor:
        return str(path)
    for folder in (Path(os.path.abspath(root)), root.resolve()):  # noqa: PTH100  # with links as they are written
        if path.is_relative_to(folder):
            return str(path.relative_to(folder))
    return None


def _is_odd(text: str) -> bool:
    """Whether a path may be absolute, lead upwards or need normalising; the others are handled without a Path."""
    return text[0] in "./\\" or "/." in text or "//" in text or "\\" in text or ":" in text or text[-1] == "/"


def text_of(where: str, column: str, value: object) -> str:
    if not isinstance(value, str | None):
        raise DataError(f"{where}: the {column} is {reprlib.repr(value)}; it must be text")
    return (value or "").strip()


def local(root: Path | Bucket) -> Path:
    """The root, on this machine; raises DataError for a bucket: masks are read from a local folder only."""
    if isinstance(root, Bucket):
        raise DataError(f"{root}: masks are read from a local folder only; copy it first")
    return root


def with_endings(root: Path | Bucket, paths: list[str]) -> list[str]:
    """The paths with the extension of their files, if a table leaves it out: a1b2 for a1b2.jpg.

    The first file that exists gives the extension for all. Label Studio writes /data/upload/7/ab12cd34-cat.jpg for
    cat.jpg: only the file name is used, with or without its prefix.
    """
    paths = [_uploaded(root, text) for text in paths]
    bare = [text for text in paths[:100] if not text.lower().endswith(SUFFIXES)]
    if not bare:
        return paths
    for ending in (*SUFFIXES, *map(str.upper, SUFFIXES)):
        if any(is_file(root, text + ending) for text in bare):
            return [text if text.lower().endswith(SUFFIXES) else text + ending for text in paths]
    return paths


def _uploaded(root: Path | Bucket, text: str) -> str:
    if not text.startswith("/data/upload/"):
        return text
    name = text.rsplit("/", 1)[-1]
    code, _, rest = name.partition("-")
    own = rest and len(code) == 8 and set(code) <= set("0123456789abcdef") and not is_file(root, name)
    return rest if own else name


def existing(root: Path | Bucket, texts: Sequence[str]) -> np.ndarray:
    """Which files below the root exist, (N,) of bool; a folder with many of them is listed instead of asked for each.

    On a network disk a list of ten thousand names takes as long as a question about one.
    """
    if isinstance(root, Bucket):
        return np.fromiter(map(root.has, texts), bool, len(texts))
    folders: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        folders.setdefault(os.path.dirname(text), []).append(i)  # noqa: PTH120  # a Path for each takes thrice as long
    found = np.zeros(len(texts), bool)
    for folder, numbers in folders.items():
        names = _files_in(root / folder) if len(numbers) >= LISTED else frozenset()
        for i in numbers:
            text = texts[i]
            found[i] = text[len(folder) :].lstrip("/\\") in names or is_file(root, text)
    return found


def _files_in(folder: Path) -> Collection[str]:
    """The names of the files in a folder; none if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        return frozenset()


def is_file(root: Path | Bucket, text: str) -> bool:
    """Whether the root has a file with that path."""
    if isinstance(root, Bucket):
        return root.has(text)
    return os.path.isfile(f"{root}{os.sep}{text}")  # noqa: PTH113  # a Path for each takes thrice as long
