"""Manifests: tables (CSV, TSV, JSON lines) that name images and say what they show."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from frostline.data.images import Images, ImageSet
from frostline.data.readers.folder import SPLITS, pictures_below, unknown_classes
from frostline.data.readers.mask_files import Pairs, mask_set, matched, read_legend, some_of
from frostline.data.split import chosen_splits, image_set
from frostline.data.texts import Texts
from frostline.errors import DataError, reason

ENDINGS = (".csv", ".tsv", ".jsonl")
PATHS = ("path", "image", "file_name", "filename")
LABELS = ("label", "class", "labels")
SPLIT_OF = {"": "train"} | {name: split for split, names in SPLITS.items() for name in names}

Columns = dict[str, list[object]]  # what the records say, by column: text, or what JSON holds; None for nothing
NO_LABELS: tuple[str, ...] = ()
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Records:
    """What a manifest says about its images, by column: one record per image has the same place in each.

    lines: (N,) of int64, where the records stand, from 1. paths, masks: files as they are written, relative to the
    manifest; masks only where these are learned. labels: (N,) of int64, numbers of `sets`, each the labels of an image
    in order. splits: (N,) of "train", "valid" or "test".
    """

    lines: np.ndarray
    paths: list[str]
    masks: list[str]
    labels: np.ndarray
    sets: list[tuple[str, ...]]
    splits: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, chosen: np.ndarray) -> Records:
        """Those records, in that order."""
        paths = [self.paths[i] for i in chosen]
        masks = [self.masks[i] for i in chosen] if self.masks else []
        return Records(self.lines[chosen], paths, masks, self.labels[chosen], self.sets, self.splits[chosen])

    def of(self, *splits: str) -> Records:
        """Those of some splits."""
        return self.take(np.flatnonzero(np.isin(self.splits, splits)))

    def existing(self) -> list[str]:
        """The splits that have records, training first."""
        return [split for split in SPLITS if (self.splits == split).any()]

    def classes(self) -> list[str]:
        """The labels that occur, sorted."""
        return sorted({label for number in np.unique(self.labels) for label in self.sets[number]})


def read_manifest(file: Path, seed: int) -> ImageSet:
    """A data set from a manifest: one label per image, several (`cat|dog`), or masks.

    Columns, in any case: `path` (or image, file_name, filename), `label` (or class, labels) or `mask`, and perhaps
    `split` (train, val, test). Paths are relative to the manifest and stay in its folder. Classes are sorted by name.
    Without a validation split a stratified fifth of the training images is taken.

    Raises DataError, with the line, for tables, columns, records, files and classes that cannot be used.
    """
    records, notes = _records(file, "")
    existing = records.existing()
    if "train" not in existing:
        raise DataError(f"{file} has no training images: the column split says {', '.join(existing)} only")
    _refuse_missing(file, records)
    splits = {split: records.of(split) for split in existing}
    if records.masks:
        pairs = {split: _pairs(file, some) for split, some in splits.items()}
        return mask_set(file.stem, pairs, read_legend([file.parent]), seed, notes)
    classes = tuple(splits["train"].classes())
    if len(classes) < 2:
        raise DataError(f"too few classes in {file}: {', '.join(classes) or 'none'}; a classifier needs at least two")
    several = any(len(labels) > 1 for labels in records.sets)
    images = {split: _labelled(file, some, classes, several) for split, some in splits.items()}
    return image_set(file.stem, classes, images, seed, notes, file)


def read_manifest_for(file: Path, classes: tuple[str, ...], choice: str, task: str) -> tuple[Images, str]:
    """Images to measure a model on, matched to its classes by name, and which split they are.

    choice: "all", "train", "valid" or "test"; "" for the test split, else validation, else all.
    task: "classification", "multilabel" or "segmentation", what the targets are for.
    """
    records, _ = _records(file, task)
    names, choice = chosen_splits(records.existing(), choice, file)
    records = records.of(*names)
    _refuse_missing(file, records)
    if records.masks:
        return matched(_pairs(file, records), read_legend([file.parent]), classes, file), choice
    return _labelled(file, records, classes, task == "multilabel"), choice


def read_column(file: Path, column: str) -> dict[str, str]:
    """What a column of a manifest says of each image, by its path as it is first written; "" where it says nothing.

    Raises DataError where there is no such column, and where two records say different things of one image.
    """
    lines, columns = _table(file)
    name = column.strip().lower()
    path = next((each for each in PATHS if each in columns), None)
    if path is None or name not in columns:
        raise DataError(f"{file} has no column {column}; it has {', '.join(columns)}")
    said: dict[str, str] = {}
    first: dict[str, str] = {}
    for text, value in zip(_paths(file, lines, path, columns[path]), columns[name], strict=True):
        key = first.setdefault(_plainly(text), text)
        word = "" if value is None or value != value else str(value).strip()  # JSON's NaN is nothing
        if said.get(key) and word and said[key] != word:
            raise DataError(f"{file} says two things of {text} in the column {name}: {said[key]} and {word}")
        said[key] = said.get(key) or word
    return said


def _records(file: Path, task: str) -> tuple[Records, tuple[str, ...]]:
    """What the manifest says, every image once, and what is to be noted."""
    lines, columns = _table(file)
    if not lines:
        raise DataError(f"{file} has no records")
    path, target = _columns(file, list(columns), task)
    paths = _paths(file, lines, path, columns[path])
    masks: list[str] = []
    labels, sets = np.zeros(len(lines), np.int64), [NO_LABELS]
    if target == "mask":
        masks = _paths(file, lines, target, columns[target])
    else:
        each = _read_each(lines, columns[target], lambda line, value: _labels(f"{file}, line {line}", value))
        sets = list(dict.fromkeys(each))
        numbers = {some: number for number, some in enumerate(sets)}
        labels = np.fromiter((numbers[some] for some in each), np.int64, len(each))
    cells = columns.get("split", [None] * len(lines))
    splits = _read_each(lines, cells, lambda line, value: _split(f"{file}, line {line}", value))
    return _once(file, Records(np.array(lines), paths, masks, labels, sets, np.array(splits)))


def _read_each(lines: list[int], values: list[object], read: Callable[[int, object], T]) -> list[T]:
    """What `read` makes of the values of a column; equal texts are read once."""
    known: dict[object, T] = {}
    result = []
    for line, value in zip(lines, values, strict=True):
        key = value if isinstance(value, str | None) else id(value)
        if key not in known:
            known[key] = read(line, value)
        result.append(known[key])
    return result


def _columns(file: Path, columns: list[str], task: str) -> tuple[str, str]:
    """The columns of the paths and of what is to be learned, which those that exist tell where no task does."""
    path = next((name for name in PATHS if name in columns), None)
    label = next((name for name in LABELS if name in columns), None)
    mask = "mask" if "mask" in columns else None
    if label and mask and not task:
        raise DataError(f"{file} has the columns {label} and mask; leave out the one that is not to be learned")
    target = mask if task == "segmentation" else label if task else label or mask
    if path is None or target is None:
        right = "mask" if task == "segmentation" else "label (or class, labels)" + " or mask" * (not task)
        raise DataError(
            f"{file} has the columns {', '.join(columns)}; it needs path (or image, file_name, filename) and {right}"
        )
    return path, target


def _split(where: str, value: object) -> str:
    split = SPLIT_OF.get(_text(where, "split", value).lower())
    if split is None:
        raise DataError(f"{where}: unknown split {value!r}; it must be train, val or test")
    return split


def _text(where: str, column: str, value: object) -> str:
    if not isinstance(value, str | None):
        raise DataError(f"{where}: the {column} is {value!r}; it must be text")
    return (value or "").strip()


def _labels(where: str, value: object) -> tuple[str, ...]:
    parts = value.split("|") if isinstance(value, str) else [] if value is None else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise DataError(f"{where}: the label is {value!r}; it must be text, a number or a list of these")
    return tuple(sorted({part.strip() for part in parts} - {""}))


def _paths(file: Path, lines: list[int], column: str, values: list[object]) -> list[str]:
    """The paths of a column, each of which stays in the folder of the manifest, whoever wrote it."""
    result = []
    for line, value in zip(lines, values, strict=True):
        text = value.strip() if isinstance(value, str) else _text(f"{file}, line {line}", column, value)
        if not text:
            raise DataError(f"{file}, line {line}: a path is missing")
        if _is_odd(text) and (Path(text).anchor or ".." in Path(text).parts):
            raise DataError(
                f"{file}, line {line}: {text} leads out of the manifest's folder; put the manifest above the images "
                "and write paths relative to it"
            )
        result.append(text)
    return result


def _plainly(text: str) -> str:
    """A path without another spelling of it."""
    return str(Path(text)) if _is_odd(text) else text


def _is_odd(text: str) -> bool:
    """Whether a path may be absolute, lead upwards or be another spelling of one; most are not, and cost no Path."""
    return text[0] in "./\\" or "/." in text or "//" in text or "\\" in text or ":" in text or text[-1] == "/"


def _once(file: Path, records: Records) -> tuple[Records, tuple[str, ...]]:
    """Every image once; raises DataError where two records say different things of one."""
    first: dict[str, int] = {}
    for i, text in enumerate(records.paths):
        before = first.setdefault(_plainly(text), i)
        if before != i and (one := _description(records, before)) != (other := _description(records, i)):
            raise DataError(
                f"{file} says two things of {text}: {one} in line {records.lines[before]}, {other} in line "
                f"{records.lines[i]}; an image has one split and one record (several labels are written cat|dog)"
            )
    again = len(records) - len(first)
    if not again:
        return records, ()
    note = f"{again} record{'s' * (again > 1)} of {file.name} passed over: said before"
    return records.take(np.fromiter(first.values(), np.int64)), (note,)


def _description(records: Records, i: int) -> str:
    labels = "|".join(records.sets[records.labels[i]]) or "no label"
    return f"{Path(records.masks[i]) if records.masks else labels} ({records.splits[i]})"


def _refuse_missing(file: Path, records: Records) -> None:
    folder = str(file.parent)
    missing = [
        (line, text)
        for line, *texts in zip(
            records.lines.tolist(), records.paths, *[records.masks] * bool(records.masks), strict=True
        )
        for text in texts
        if not os.path.isfile(f"{folder}{os.sep}{text}")  # noqa: PTH113  # a Path for each takes thrice as long
    ]
    if missing:
        raise DataError(
            f"{len({line for line, _ in missing})} of {len(records)} records of {file} name files that do not exist: "
            f"{some_of([f'{text} (line {line})' for line, text in missing])}; paths are relative to {file.parent}"
        )


def _pairs(file: Path, records: Records) -> Pairs:
    images, masks = ([file.parent / text for text in texts] for texts in (records.paths, records.masks))
    return Pairs(images, masks, records.paths)


def _labelled(file: Path, records: Records, classes: Sequence[str], several: bool) -> Images:
    """Images with class numbers (N,), or where they have several labels (N, classes) of bool."""
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = [not numbers.keys() >= set(labels) for labels in records.sets]
    if (strange := np.array(unknown)[records.labels]).any():
        line, extra = records.lines[strange.argmax()], sorted(set(records.classes()) - numbers.keys())
        raise unknown_classes(f"{file} (line {line})", extra, classes)
    names = Texts.of(records.paths)
    pictures = pictures_below(file.parent, names)
    if several:
        marks = np.zeros((len(records.sets), len(classes)), bool)
        for held, labels in zip(marks, records.sets, strict=True):
            held[[numbers[label] for label in labels if label in numbers]] = True
        return Images(pictures, marks[records.labels], names)
    single = np.array([len(labels) == 1 for labels in records.sets])[records.labels]
    if not single.all():
        i = int(single.argmin())
        text = "|".join(records.sets[records.labels[i]]) or "no label"
        raise DataError(f"{file}, line {records.lines[i]}: {text}; give one label")
    number_of = np.array([numbers.get(labels[0], -1) if labels else -1 for labels in records.sets], np.int64)
    return Images(pictures, number_of[records.labels], names)


def _table(file: Path) -> tuple[list[int], Columns]:
    """The records that are not empty: the line of each, and what they say by column, its name in lower case."""
    ending = file.suffix.lower()
    if ending not in ENDINGS:
        raise DataError(f"{file} is no manifest by its ending; {', '.join(ENDINGS)} are")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {reason(error)}") from error
    if ending == ".jsonl":
        return _json_lines(file, text)
    return _csv_records(file, text, "\t" if ending == ".tsv" else ",;\t")


def _json_lines(file: Path, text: str) -> tuple[list[int], Columns]:
    """Of JSON lines; numbers as the text that they are written as."""
    lines: list[int] = []
    columns: Columns = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line, parse_int=str, parse_float=str)
            if "\\u" in line:
                json.dumps(cells, ensure_ascii=False).encode()  # half a character, as \ud800, is no text
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}, line {number}: no JSON ({reason(error)})") from error
        if not isinstance(cells, dict):
            raise DataError(f'{file}, line {number}: give an object, as {{"path": "a.jpg", "label": "cat"}}')
        for name, value in cells.items():
            column = columns.setdefault(name.strip().lower(), [])
            column += [None] * (len(lines) - len(column))
            column[len(lines) :] = [value]
        lines.append(number)
    return lines, {name: column + [None] * (len(lines) - len(column)) for name, column in columns.items()}


def _csv_records(file: Path, text: str, delimiters: str) -> tuple[list[int], Columns]:
    """Of a table whose first line names its columns; of the delimiters the one that makes most columns there."""
    head = next(filter(str.strip, io.StringIO(text, newline="")), "")
    delimiter = max(delimiters, key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    lines: list[int] = []
    names: list[str] = []
    cells: list[list[object]] = []
    try:
        for record in reader:
            if not any(map(str.strip, record)):
                continue
            if not names:
                names, cells = [cell.strip().lower() for cell in record], [[] for _ in record]
                continue
            if len(record) > len(names) and any(map(str.strip, record[len(names) :])):
                raise DataError(
                    f"{file}, line {reader.line_num}: {len(record)} cells for {len(names)} columns; "
                    f'text with {delimiter!r} in it is written in "…"'
                )
            lines.append(reader.line_num)
            for column, cell in itertools.zip_longest(cells, record[: len(names)], fillvalue=""):
                column.append(cell)  # type: ignore[union-attr]  # there are no more cells than columns
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: {error}") from error
    return lines, dict(zip(names, cells, strict=True))
