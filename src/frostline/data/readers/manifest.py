"""Manifests: tables of images and their labels, in a file or a DataFrame."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from frostline import terminal
from frostline.data.images import Images, ImageSet
from frostline.data.parts import Bucket
from frostline.data.readers.columns import (
    IS_VALID,
    MARKS,
    Wanted,
    called,
    existing,
    is_file,
    local,
    marked,
    notes_of_unused,
    path_column,
    paths_in,
    roles_of,
    text_of,
    with_endings,
)
from frostline.data.readers.folder import SPLIT_OF, SPLITS, likely_split, pictures_below, unknown_classes
from frostline.data.readers.mask_files import Pairs, mask_set, matched, read_key, some_of
from frostline.data.readers.table import Table, table_of
from frostline.data.split import chosen_splits, image_set
from frostline.data.texts import Texts
from frostline.errors import DataError, UsageError
from frostline.remote import is_address

Source = Path | Table | Any  # a file, its table, or a DataFrame
AS_IT_IS = Wanted()
NAMED = 6  # missing files, of which a message shows five
NO_LABELS: tuple[str, ...] = ()
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Records:
    """The records of a manifest by column, one record per image.

    table: the manifest. root: the folder of the paths. lines: (N,) of int64, the line of each record. paths, masks:
    files below the root; masks only for segmentation. labels: (N,) of int64, indices into `sets`, the
    sorted labels of an image. splits: (N,) of "train", "valid" or "test".
    """

    table: Table
    root: Path | Bucket
    lines: np.ndarray
    paths: list[str]
    masks: list[str]
    labels: np.ndarray
    sets: list[tuple[str, ...]]
    splits: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, chosen: np.ndarray) -> Records:
        """The records of these numbers, in that order."""
        paths = [self.paths[i] for i in chosen]
        masks = [self.masks[i] for i in chosen] if self.masks else []
        some = {"paths": paths, "masks": masks, "labels": self.labels[chosen], "splits": self.splits[chosen]}
        return replace(self, lines=self.lines[chosen], **some)

    def of(self, *splits: str) -> Records:
        """The records of some splits."""
        return self.take(np.flatnonzero(np.isin(self.splits, splits)))

    def existing(self) -> list[str]:
        """The splits that have records, training first."""
        return [split for split in SPLITS if (self.splits == split).any()]

    def classes(self) -> list[str]:
        """The labels that occur, sorted."""
        return sorted({label for number in np.unique(self.labels) for label in self.sets[number]})


def read_manifest(source: Source, seed: int, wanted: Wanted = AS_IT_IS) -> ImageSet:
    """A data set from a manifest: one label per image, several (`cat|dog`), or masks.

    source: a CSV, TSV, JSON lines or Parquet file, a DataFrame, or the table of another layout.
    Columns, in any case: `path` (or image, file_name, filename), `label` (or class, labels), a column of 0 and 1 per
    class, or `mask`; optionally `split` (train, val, test) or `is_valid`. wanted: names of other columns. Paths are
    relative to the folder of the manifest and stay in it; their extension may be left out. Classes are sorted by name.
    Without a validation split it uses a stratified fifth of the training images. Images without a label are skipped and
    other columns ignored; notes report both.

    Raises DataError, with the line, for unusable tables, columns, records, files and classes.
    """
    records, notes = _records(source, "", wanted)
    existing, name = records.existing(), records.table.name
    if "train" not in existing:
        raise DataError(f"{name} has no training images: the column split has only {', '.join(existing)}")
    several = any(len(labels) > 1 for labels in records.sets)
    if not records.masks and not several:
        records, left_out = _with_labels(records)
        notes = (*notes, *left_out, *_several(records))
    _refuse_missing(records)
    splits = {split: records.of(split) for split in existing}
    if records.masks:
        pairs = {split: _pairs(some) for split, some in splits.items()}
        return mask_set(records.table.title, pairs, read_key([local(records.root)]), seed, notes)
    classes = tuple(splits["train"].classes())
    if len(classes) < 2:
        raise DataError(f"too few classes in {name}: {', '.join(classes) or 'none'}; a classifier needs at least two")
    images = {split: _labelled(some, classes, several) for split, some in splits.items()}
    return image_set(records.table.title, classes, images, seed, notes, name)


def read_manifest_for(
    source: Source, classes: tuple[str, ...], choice: str, task: str, wanted: Wanted = AS_IT_IS
) -> tuple[Images, str]:
    """Images to measure a model on, matched to its classes by name, and the name of their split.

    choice: "all", "train", "valid" or "test"; "" for the test split, else validation, else all.
    task: "classification", "multilabel" or "segmentation".
    """
    records, _ = _records(source, task, wanted)
    names, choice = chosen_splits(records.existing(), choice, records.table.name)
    records = records.of(*names)
    if task == "classification":
        records, notes = _with_labels(records)
        for note in notes:
            terminal.say(f"note: {note}")
    _refuse_missing(records)
    if records.masks:
        return matched(_pairs(records), read_key([local(records.root)]), classes, records.table.name), choice
    return _labelled(records, classes, task == "multilabel"), choice


def read_paths(source: Source) -> list[Path]:
    """The images of a manifest, each once, whatever its other columns say.

    Raises DataError without a column of paths, and for files that do not exist.
    """
    table = table_of(source)
    paths, nothing = paths_in(table, table.root, path_column(table)), np.zeros(len(table.lines), np.int64)
    _refuse_missing(Records(table, table.root, np.array(table.lines), paths, [], nothing, [NO_LABELS], nothing))
    return [local(table.root) / text for text in dict.fromkeys(paths)]


def read_column(source: Source, column: str, wanted: Wanted = AS_IT_IS) -> dict[str, str]:
    """The value of a column for each image, by its path below the root; "" for an empty cell.

    Raises DataError if the column does not exist, or if an image has two different values.
    """
    table = table_of(source)
    name = column.strip().lower()
    if name not in table.columns:
        raise DataError(f"{table.name} has no column {column}; it has {', '.join(table.columns)}")
    roles = roles_of(table, replace(wanted, group=column), "")
    texts = paths_in(table, _root(table, wanted), roles.path)
    said: dict[str, str] = {}
    for text, value in zip(texts, table.columns[name], strict=True):
        word = "" if value is None or value != value else str(value).strip()  # JSON's NaN is an empty cell
        if said.get(text) and word and said[text] != word:
            raise DataError(f"{table.name} has two values for {text} in the column {name}: {said[text]} and {word}")
        said[text] = said.get(text) or word
    return said


def _root(table: Table, wanted: Wanted) -> Path | Bucket:
    if isinstance(table.root, Bucket) and wanted.images:
        raise UsageError(f"--images is for local manifests; put {table.name} above its images, and leave --images out")
    return wanted.images or table.root


def _records(source: Source, task: str, wanted: Wanted) -> tuple[Records, tuple[str, ...]]:
    """The records of the manifest, one per image, and notes."""
    table = table_of(source)
    if not table.lines:
        raise DataError(f"{table.name} has no records")
    roles, root, lines, columns = roles_of(table, wanted, task), _root(table, wanted), table.lines, table.columns
    paths = paths_in(table, root, roles.path)
    masks: list[str] = []
    labels, sets = np.zeros(len(lines), np.int64), [NO_LABELS]
    if roles.target == "mask":
        masks = paths_in(table, root, roles.target)
    else:
        cells = list[object](marked(columns, roles.marks)) if roles.marks else columns[roles.target]
        each = _read_each(lines, cells, lambda line, value: _labels(table.where(line), value))
        sets = list(dict.fromkeys(each))
        numbers = {some: number for number, some in enumerate(sets)}
        labels = np.fromiter((numbers[some] for some in each), np.int64, len(each))
    cells = columns[roles.split] if roles.split else [None] * len(lines)
    read = _is_valid if roles.split == IS_VALID else _split
    splits = _read_each(lines, cells, lambda line, value: read(table.where(line), value))
    records = Records(table, root, np.array(lines), paths, masks, labels, sets, np.array(splits))
    once, notes = _once(records)
    return once, (*table.notes, *notes_of_unused(roles.unused), *_of_marks(once, roles.marks), *notes)


def _of_marks(records: Records, marks: Sequence[str]) -> list[str]:
    """Notes on columns of 0 and 1: those without a 1, and images that are not of exactly one class."""
    shown = {label for labels in records.sets for label in labels}
    notes = [f"no image has a 1 in the column {name}, so it is no class" for name in marks if name not in shown]
    other = sum(len(records.sets[number]) != 1 for number in records.labels.tolist())
    if marks and other and max(map(len, records.sets)) > 1:
        count = f"{other} of {len(records)}"
        notes.append(f"{count} images have no 1 or several, so each image may have several labels")
    return notes


def _read_each(lines: Sequence[int], values: Sequence[object], read: Callable[[int, object], T]) -> list[T]:
    """The results of `read` for the values of a column; equal texts are read once."""
    known: dict[object, T] = {}
    result = []
    for line, value in zip(lines, values, strict=True):
        key = value if isinstance(value, str | None) else id(value)
        if key not in known:
            known[key] = read(line, value)
        result.append(known[key])
    return result


def _split(where: str, value: object) -> str:
    word = text_of(where, "split", value)
    split = SPLIT_OF.get(word.lower() or "train")
    if split is None:
        meant = likely_split(word)
        hint = f"; if {word} is meant for {meant}, write {meant}" if meant else ""
        if word.isdecimal():
            hint = "; if these are folds, write val for the one to hold out, and train for the others"
        raise DataError(f"{where}: unknown split {value!r}; it must be train, val or test{hint}")
    return split


def _labels(where: str, value: object) -> tuple[str, ...]:
    parts = value.split("|") if isinstance(value, str) else [] if value is None else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise DataError(f"{where}: the label is {reprlib.repr(value)}; it must be text, a number or a list of these")
    return tuple(sorted({part.strip() for part in parts} - {""}))


def _is_valid(where: str, value: object) -> str:
    mark = MARKS.get(str(value).strip().lower())
    if mark is None:
        raise DataError(f"{where}: is_valid is {value!r}; it must be True or False")
    return "valid" if mark else "train"


def _once(records: Records) -> tuple[Records, tuple[str, ...]]:
    """One record per image; raises DataError if two records of an image differ."""
    first: dict[str, int] = {}
    for i, text in enumerate(records.paths):
        before = first.setdefault(text, i)
        if before != i and (one := _description(records, before)) != (other := _description(records, i)):
            raise DataError(
                f"{records.table.name} lists {text} twice: as {one} in {records.table.counted} "
                f"{records.lines[before]} and as {other} in {records.table.counted} {records.lines[i]}; "
                "list each image once (join several labels as cat|dog)"
            )
    again = len(records) - len(first)
    if not again:
        return records, ()
    note = f"skipped {again} duplicate record{'s' * (again > 1)} in {Path(records.table.name).name}"
    return records.take(np.fromiter(first.values(), np.int64)), (note,)


def _description(records: Records, i: int) -> str:
    labels = "|".join(records.sets[records.labels[i]]) or "no label"
    return f"{Path(records.masks[i]) if records.masks else labels} ({records.splits[i]})"


def _with_labels(records: Records) -> tuple[Records, tuple[str, ...]]:
    """The records with a label, and a note on the others."""
    empty = np.array([not labels for labels in records.sets])[records.labels]
    if not empty.any() or empty.all():
        return records, ()
    line, count = records.lines[empty.argmax()], int(empty.sum())
    which = "1 image without a label:" if count == 1 else f"{count} images without a label, the first in"
    note = f"skipped {which} {records.table.where(int(line))}"
    return records.take(np.flatnonzero(~empty)), (note,)


def _several(records: Records) -> list[str]:
    """A hint if single labels look like several: they have separators, and the parts between them recur."""
    labels = [own[0] for own in records.sets if own]
    for separator in ",; ":
        parts = {label: [part.strip() for part in label.split(separator)] for label in labels}
        combined = [label for label in labels if len(parts[label]) > 1]
        if not combined:
            continue
        every = [part for own in parts.values() for part in own]
        recurs = len(set(every)) < len(every)
        if separator == " ":  # names of classes have spaces, too: each part must be a label of its own
            recurs = all(part in parts for label in combined for part in parts[label])
        if recurs and len(labels) > 1:
            written = "|".join(parts[combined[0]])
            return [f'"{combined[0]}" counts as one class; write {written} if these are several labels']
    return []


def _refuse_missing(records: Records) -> None:
    missing: list[tuple[int, str]] = []  # the first ones: there may be millions
    gone = ~existing(records.root, records.paths)
    if records.masks:
        gone |= ~existing(records.root, records.masks)
    count = int(gone.sum())
    for i in np.flatnonzero(gone)[:NAMED].tolist():
        texts = (records.paths[i], *records.masks[i : i + 1])
        missing += [(records.lines[i], text) for text in texts if not is_file(records.root, text)]
    if missing:
        counted, first = records.table.counted, missing[0][1]
        elsewhere = next((f for f in _folders(records.root) if is_file(f, with_endings(f, [first])[0])), None)
        hint = f"they are in {elsewhere}: give --images {elsewhere}" if elsewhere else "name another with --images"
        if first.lower().startswith(("http://", "https://")):
            hint = "nothing is downloaded: download the images, and name their files"
        elif is_address(first):
            hint = f"for images in a bucket copy {Path(records.table.name).name} there, and give its URL as DATA"
        raise DataError(
            f"{count} of {len(records)} records of {records.table.name} name files that do not exist: "
            f"{some_of([f'{text} ({counted} {line})' for line, text in missing])}; paths are relative to "
            f"{called(records.root)}; {hint}"
        )


def _folders(root: Path | Bucket) -> list[Path]:
    if isinstance(root, Bucket) or not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir())


def _pairs(records: Records) -> Pairs:
    images, masks = ([local(records.root) / text for text in texts] for texts in (records.paths, records.masks))
    return Pairs(images, masks, records.paths)


def _labelled(records: Records, classes: Sequence[str], several: bool) -> Images:
    """Images with class numbers (N,), or (N, classes) of bool for several labels per image."""
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = [not numbers.keys() >= set(labels) for labels in records.sets]
    if (strange := np.array(unknown)[records.labels]).any():
        line, extra = records.lines[strange.argmax()], sorted(set(records.classes()) - numbers.keys())
        where = f"{records.table.name} ({records.table.counted} {line})"
        raise unknown_classes(where, extra, classes)
    names = Texts.of(records.paths)
    pictures = pictures_below(records.root, names)
    if several:
        marks = np.zeros((len(records.sets), len(classes)), bool)
        for held, labels in zip(marks, records.sets, strict=True):
            held[[numbers[label] for label in labels if label in numbers]] = True
        return Images(pictures, marks[records.labels], names)
    single = np.array([len(labels) == 1 for labels in records.sets])[records.labels]
    if not single.all():
        i = int(single.argmin())
        text = "|".join(records.sets[records.labels[i]]) or "no label"
        raise DataError(f"{records.table.where(int(records.lines[i]))}: {text}; give one label")
    number_of = np.array([numbers.get(labels[0], -1) if labels else -1 for labels in records.sets], np.int64)
    return Images(pictures, number_of[records.labels], names)
