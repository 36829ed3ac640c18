"""Manifests: tables (CSV, TSV, JSON lines) that name images and say what they show."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from frostline.data.images import Images, ImageSet
from frostline.data.readers.folder import SPLITS, unknown_classes
from frostline.data.readers.mask_files import Pairs, mask_set, matched, read_legend, some_of
from frostline.data.split import chosen_splits, image_set
from frostline.errors import DataError, reason

ENDINGS = (".csv", ".tsv", ".jsonl")
PATHS = ("path", "image", "file_name", "filename")
LABELS = ("label", "class", "labels")
SPLIT_OF = {"": "train"} | {name: split for split, names in SPLITS.items() for name in names}

Cells = dict[str, object]  # what a row says, by column: text, or what JSON holds


@dataclass(frozen=True)
class Record:
    """What a manifest says about one image.

    line: where, from 1. path, mask: files as they are written, relative to the manifest. labels: in order, each once.
    split: "train", "valid" or "test".
    """

    line: int
    path: str
    labels: tuple[str, ...]
    mask: str
    split: str


def read_manifest(file: Path, seed: int) -> ImageSet:
    """A data set from a manifest: one label an image, several (`cat|dog`), or masks.

    Columns, in any case: `path` (or image, file_name, filename), `label` (or class, labels) or `mask`, and perhaps
    `split` (train, val, test). Paths are relative to the manifest and stay in its folder. Classes are sorted by name.
    Without a validation split a stratified fifth of the training images is taken.

    Raises DataError, with the line, for tables, columns, rows, files and classes that cannot be used.
    """
    records, notes = _records(file, "")
    splits = {split: [record for record in records if record.split == split] for split in SPLITS}
    splits = {split: some for split, some in splits.items() if some}
    if "train" not in splits:
        raise DataError(f"{file} has no training rows: the column split says {', '.join(splits)} only")
    _refuse_missing(file, records)
    if records[0].mask:
        pairs = {split: _pairs(file, some) for split, some in splits.items()}
        return mask_set(file.stem, pairs, read_legend([file.parent]), seed, notes)
    classes = tuple(sorted({label for record in splits["train"] for label in record.labels}))
    if len(classes) < 2:
        raise DataError(f"too few classes in {file}: {', '.join(classes) or 'none'}; a classifier needs at least two")
    several = any(len(record.labels) > 1 for record in records)
    images = {split: _labelled(file, some, classes, several) for split, some in splits.items()}
    return image_set(file.stem, classes, images, seed, notes, file)


def read_manifest_for(file: Path, classes: tuple[str, ...], wanted: str, task: str) -> tuple[Images, str]:
    """Images to measure a model on, matched to its classes by name, and which split they are.

    wanted: "all", "train", "valid" or "test"; "" for the test split, else validation, else all.
    task: "classification", "multilabel" or "segmentation", what the targets are for.
    """
    records, _ = _records(file, task)
    found = [split for split in SPLITS if any(record.split == split for record in records)]
    names, choice = chosen_splits(found, wanted, file)
    records = [record for record in records if record.split in names]
    _refuse_missing(file, records)
    if records[0].mask:
        return matched(_pairs(file, records), read_legend([file.parent]), classes, file), choice
    return _labelled(file, records, classes, task == "multilabel"), choice


def _records(file: Path, task: str) -> tuple[list[Record], tuple[str, ...]]:
    """What the manifest says, every image once, and what is to be noted."""
    table = list(_table(file))
    if not table:
        raise DataError(f"{file} has no rows")
    path, target = _columns(file, list(dict.fromkeys(name for _, cells in table for name in cells)), task)
    return _once(file, [_record(f"{file}, line {line}", line, cells, path, target) for line, cells in table])


def _columns(file: Path, columns: list[str], task: str) -> tuple[str, str]:
    """The columns of the paths and of what is to be learned, which those that are there tell where no task does."""
    path = next((name for name in PATHS if name in columns), None)
    label = next((name for name in LABELS if name in columns), None)
    mask = "mask" if "mask" in columns else None
    if label and mask and not task:
        raise DataError(f"{file} has the columns {label} and mask; leave out the one that is not to be learned")
    target = mask if task == "segmentation" else label if task else label or mask
    if path is None or target is None:
        wanted = "mask" if task == "segmentation" else "label (or class, labels)" + " or mask" * (not task)
        raise DataError(
            f"{file} has the columns {', '.join(columns)}; wanted are path (or image, file_name, filename) and {wanted}"
        )
    return path, target


def _record(where: str, line: int, cells: Cells, path: str, target: str) -> Record:
    split = SPLIT_OF.get(_text(where, "split", cells).lower())
    if split is None:
        raise DataError(f"{where}: unknown split {cells['split']!r}; train, val or test is wanted")
    image = _inside(where, _text(where, path, cells))
    if target == "mask":
        return Record(line, image, (), _inside(where, _text(where, target, cells)), split)
    return Record(line, image, _labels(where, cells.get(target)), "", split)


def _text(where: str, column: str, cells: Cells) -> str:
    value = cells.get(column)
    if not isinstance(value, str | None):
        raise DataError(f"{where}: the {column} is {value!r}; text is wanted")
    return (value or "").strip()


def _labels(where: str, value: object) -> tuple[str, ...]:
    parts = value.split("|") if isinstance(value, str) else [] if value is None else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise DataError(f"{where}: the label is {value!r}; text, a number or a list of these is wanted")
    return tuple(sorted({part.strip() for part in parts} - {""}))


def _inside(where: str, text: str) -> str:
    """A path that stays in the folder of its manifest, whoever wrote it."""
    if not text:
        raise DataError(f"{where}: a path is missing")
    if Path(text).anchor or ".." in Path(text).parts:
        raise DataError(
            f"{where}: {text} leads out of the manifest's folder; put the manifest above the images and "
            "write paths relative to it"
        )
    return text


def _once(file: Path, records: list[Record]) -> tuple[list[Record], tuple[str, ...]]:
    """Every image once; raises DataError where two rows say different things of one."""
    first: dict[Path, Record] = {}
    for record in records:
        known = first.setdefault(Path(record.path), record)
        if _said(record) != _said(known):
            raise DataError(
                f"{file} says two things of {record.path}: {_said(known)} in line {known.line}, {_said(record)} in "
                f"line {record.line}; an image has one split and one row (several labels are written cat|dog)"
            )
    again = len(records) - len(first)
    notes = (f"{again} row{'s' * (again > 1)} of {file.name} passed over: said before",) if again else ()
    return list(first.values()), notes


def _said(record: Record) -> str:
    return f"{Path(record.mask) if record.mask else '|'.join(record.labels) or 'no label'} ({record.split})"


def _refuse_missing(file: Path, records: list[Record]) -> None:
    gone = [
        (record.line, text)
        for record in records
        for text in (record.path, record.mask)
        if text and not _is_file(file.parent / text)
    ]
    if gone:
        raise DataError(
            f"{len({line for line, _ in gone})} of {len(records)} rows of {file} name files that are not there: "
            f"{some_of([f'{text} (line {line})' for line, text in gone])}; paths are relative to {file.parent}"
        )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False


def _pairs(file: Path, records: list[Record]) -> Pairs:
    images, masks = [file.parent / record.path for record in records], [file.parent / record.mask for record in records]
    return Pairs(images, masks, [record.path for record in records])


def _labelled(file: Path, records: list[Record], classes: Sequence[str], several: bool) -> Images:
    """Images with class numbers (N,), or where they have several labels (N, classes) of bool."""
    numbers = {name: number for number, name in enumerate(classes)}
    extra = sorted({label for record in records for label in record.labels} - numbers.keys())
    if extra:
        line = next(record.line for record in records if not numbers.keys() >= set(record.labels))
        raise unknown_classes(f"{file} (line {line})", extra, classes)
    pictures, names = [file.parent / record.path for record in records], [record.path for record in records]
    if several:
        held = np.zeros((len(records), len(classes)), bool)
        for marks, record in zip(held, records, strict=True):
            marks[[numbers[label] for label in record.labels]] = True
        return Images(pictures, held, names)
    other = next((record for record in records if len(record.labels) != 1), None)
    if other:
        raise DataError(f"{file}, line {other.line}: {'|'.join(other.labels) or 'no label'}; one label is wanted")
    return Images(pictures, np.array([numbers[record.labels[0]] for record in records], np.int64), names)


def _table(file: Path) -> Iterator[tuple[int, Cells]]:
    """The rows that are not empty, each with its line: what it says by column, the names of columns in lower case."""
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
    return _csv_rows(file, text, "\t" if ending == ".tsv" else ",;\t")


def _json_lines(file: Path, text: str) -> Iterator[tuple[int, Cells]]:
    """Of JSON lines; numbers as the text that they are written as."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line, parse_int=str, parse_float=str)
            json.dumps(cells, ensure_ascii=False).encode()  # half a character, as \ud800, is no text
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}, line {number}: no JSON ({reason(error)})") from error
        if not isinstance(cells, dict):
            raise DataError(f'{file}, line {number}: an object as {{"path": "a.jpg", "label": "cat"}} is wanted')
        yield number, {name.strip().lower(): value for name, value in cells.items()}


def _csv_rows(file: Path, text: str, delimiters: str) -> Iterator[tuple[int, Cells]]:
    """Of a table whose first line names its columns; of the delimiters the one that makes most columns there."""
    head = next(filter(str.strip, io.StringIO(text, newline="")), "")
    delimiter = max(delimiters, key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        cleaned = ((reader.line_num, [cell.strip() for cell in record]) for record in reader)
        filled = ((line, record) for line, record in cleaned if any(record))
        columns = [name.lower() for name in next(filled, (0, []))[1]]
        for line, record in filled:
            if any(record[len(columns) :]):
                raise DataError(
                    f"{file}, line {line}: {len(record)} cells for {len(columns)} columns; "
                    f'text with {delimiter!r} in it is written in "…"'
                )
            yield line, dict(zip(columns, [*record, *[""] * len(columns)], strict=False))
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: {error}") from error
