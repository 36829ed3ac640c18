"""Tables of images: CSV, TSV, JSON lines and Parquet files, and DataFrames."""

from __future__ import annotations

import csv
import io
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from frostline.data.parts import Bucket
from frostline.errors import DataError, reason

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")

BATCH = 65_536  # records of a Parquet file that are read at once
MOST_KNOWN = 10_000  # texts of a column that are kept once each

Columns = Mapping[str, Sequence[object]]  # the cells by column: text, or a JSON value; None for an empty cell


@dataclass(frozen=True, eq=False)
class Table:
    """The records of a table, without empty ones.

    name: what messages call it. title: the name of its data set. root: the folder that paths are relative to. lines:
    the line of each record, from 1. columns: by name in lower case. counted: "line", "row" or "image". notes: what was
    skipped.
    """

    name: str
    title: str
    root: Path | Bucket
    lines: Sequence[int]
    columns: Columns
    counted: str = "line"
    notes: tuple[str, ...] = ()

    def where(self, line: int) -> str:
        """A record in a message: "zoo.csv, line 7"."""
        return f"{self.name}, {self.counted} {line}"

    def below(self, root: Bucket) -> Table:
        """The same table with its images at another place."""
        return replace(self, root=root)


def holds_objects(columns: Columns, name: str) -> bool:
    """Whether a column holds bytes or records, as those of Hugging Face hold pictures; a Parquet's is not read."""
    if isinstance(columns, ParquetColumns):
        return name in columns.objects
    first = next((cell for cell in columns[name] if cell is not None), None)
    return any(isinstance(cell, bytes) for cell in (first.values() if isinstance(first, dict) else [first]))


def is_frame(value: object) -> bool:
    """Whether a value is a DataFrame, of pandas or of a library with the same interface."""
    return hasattr(value, "columns") and hasattr(value, "iloc")


def is_table(value: object) -> bool:
    """Whether a value is a DataFrame, or the path of a table by its extension."""
    return is_frame(value) or (isinstance(value, (str, Path)) and Path(value).suffix.lower() in ENDINGS)


def listed(
    path: Path, root: Path, rows: Sequence[tuple[str, Sequence[str], str]], notes: tuple[str, ...] = ()
) -> Table:
    """A table from another file or folder, `path`. rows: file below the root, labels, and split or ""."""
    columns: dict[str, Sequence[object]] = {"path": [row[0] for row in rows], "label": [list(row[1]) for row in rows]}
    if any(row[2] for row in rows):
        columns["split"] = [row[2] for row in rows]
    title = path.name if path.is_dir() else path.absolute().parent.name
    return Table(str(path), title or "data", root, list(range(1, 1 + len(rows))), columns, "image", notes)


def table_of(source: Path | Any) -> Table:
    """The table of a file, by its extension, or of a DataFrame; a Table is returned unchanged.

    Raises DataError, with the line, for an invalid file, and for Parquet if pyarrow is not installed.
    """
    if isinstance(source, Table):
        return source
    if not isinstance(source, Path):
        refuse_twins([_name(name) for name in source.columns], "the DataFrame")  # one of two would be a table
        columns = _columns(((name, source[name]) for name in source.columns), "the DataFrame")
        return Table("the DataFrame", "data", _root(columns), list(range(len(source))), columns, "row")
    lines, columns = _read(source)
    return Table(str(source), source.stem, source.parent, lines, columns, "row" if _is_parquet(source) else "line")


def table_in(url: str, content: bytes, root: str) -> Table:
    """The table in the content of a file at a URL."""
    file = PurePosixPath(url.rpartition("/")[2])
    lines, columns = _parsed(url, file.suffix.lower(), content)
    return Table(url, file.stem, Bucket(root, None), lines, columns, "row" if _is_parquet(file) else "line")


def _root(columns: Columns) -> Path:
    """The folder that a DataFrame's paths are relative to: the current one, unless absolute paths lead out of it."""
    here = f"{Path.cwd() / '-'}"[:-1]
    for values in columns.values():
        texts = [text for text in values if isinstance(text, str)]
        first = Path(texts[0] if texts else "")
        if first.is_absolute() and first.is_file():
            inside = all(text.startswith(here) or not Path(text).is_absolute() for text in texts)
            return Path() if inside else Path(first.anchor)
    return Path()


def _read(file: Path) -> tuple[Sequence[int], Columns]:
    ending = file.suffix.lower()
    if ending not in ENDINGS:
        raise DataError(f"{file} does not have the extension of a manifest ({', '.join(ENDINGS)})")
    if _is_parquet(file):
        return _parquet(str(file), os.fspath(file))
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {reason(error)}") from error
    return _parsed(str(file), ending, content)


def _parsed(name: str, ending: str, content: bytes) -> tuple[Sequence[int], Columns]:
    """The records in the content of a file. name: what messages call it."""
    if ending == ".parquet":
        return _parquet(name, content)
    if ending == ".jsonl":
        return _json_lines(name, _text(name, content))
    _text(name, content)  # refused as a whole, and not kept: as text it takes several times the memory
    return _csv_records(name, content, "\t" if ending == ".tsv" else ",;\t")


def _text(file: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _is_parquet(file: PurePath) -> bool:
    return file.suffix.lower() == ".parquet"


def _parquet(file: str, content: str | bytes) -> tuple[Sequence[int], Columns]:
    try:
        from pyarrow import parquet  # an optional dependency
    except ImportError:
        hint = "pip install 'frostline[parquet]', or save it as CSV"
        raise DataError(f"{file} is Parquet and needs pyarrow: {hint}") from None
    try:
        with parquet.ParquetFile(_source(content)) as opened:
            schema, count = opened.schema_arrow, opened.metadata.num_rows
            names = schema.names
    except Exception as error:  # pyarrow has its own kinds of errors
        raise DataError(f"{file} cannot be read: {reason(error)}") from error
    refuse_twins([_name(name) for name in names], file)
    objects = frozenset(_name(field.name) for field in schema if _holds_objects(field.type))
    return range(1, 1 + count), ParquetColumns(file, content, {_name(name): name for name in names}, objects)


def _holds_objects(kind: Any) -> bool:
    from pyarrow import types

    return any(is_one(kind) for is_one in (types.is_binary, types.is_large_binary, types.is_struct, types.is_map))


@dataclass(frozen=True, eq=False)
class ParquetColumns(Mapping[str, Sequence[object]]):
    """The columns of a Parquet file, each read when it is asked for: vectors of a million images are not.

    content: the path of the file, or its bytes. names: the name of each column in it. objects: the columns of bytes
    or records.
    Raises DataError if a column cannot be read.
    """

    file: str
    content: str | bytes
    names: Mapping[str, str]
    objects: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> list[object]:
        from pyarrow import parquet

        column, cells = self.names[name], list[object]()
        known: dict[object, object] = {}
        try:
            with parquet.ParquetFile(_source(self.content)) as opened:
                for batch in opened.iter_batches(BATCH, columns=[column]):
                    cells += _shared(map(_cell, batch.column(0).to_pylist()), known)
        except Exception as error:
            raise DataError(f"{self.file} cannot be read: {reason(error)}") from error
        return cells


def _source(content: str | bytes) -> object:
    """What pyarrow can open."""
    return content if isinstance(content, str) else io.BytesIO(content)


def _shared(cells: Iterable[object], known: dict[object, object]) -> Iterator[object]:
    """The cells, of which equal texts are one object as long as few differ: labels, and not paths."""
    for cell in cells:
        if not isinstance(cell, str):
            yield cell
        else:
            yield known.setdefault(cell, cell) if len(known) < MOST_KNOWN else known.get(cell, cell)


def _columns(given: Iterable[tuple[object, Iterable[object]]], where: str) -> Columns:
    pairs = [(_name(name), values) for name, values in given]
    refuse_twins([name for name, _ in pairs], where)
    return {name: [_cell(value) for value in values] for name, values in pairs}


def _name(name: object) -> str:
    return str(name).strip().lower()


def refuse_twins(names: Sequence[str], where: str) -> None:
    """Raises DataError if two columns have the same name: one would silently replace the other."""
    twins = sorted(name for name, count in Counter(names).items() if name and count > 1)
    if twins:
        raise DataError(
            f"{where} has two columns called {twins[0]} (upper and lower case are the same); rename or remove one"
        )


def is_missing(value: Any) -> bool:
    """Whether a value stands for none: None, NaN, and pandas' NA and NaT."""
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def _cell(value: Any) -> object:
    """A value as in JSON, with numbers and booleans as text: None for an empty cell, "3" for 3 and 3.0."""
    if is_missing(value) or isinstance(value, str):
        return value if isinstance(value, str) else None
    if isinstance(value, (bytes, dict)):  # refused where it has a role
        return value
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0:
        return [_cell(each) for each in value]
    number = value.item() if hasattr(value, "item") else value
    if is_missing(number):
        return None
    return str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)


def _json_lines(file: str, text: str) -> tuple[list[int], Columns]:
    """The records of JSON lines; numbers stay text."""
    lines: list[int] = []
    columns: dict[str, list[object]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line, parse_int=str, parse_float=str)
            if "\\u" in line:
                json.dumps(cells, ensure_ascii=False).encode()  # half a character, such as \ud800, is not text
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}, line {number}: not valid JSON ({reason(error)})") from error
        if not isinstance(cells, dict):
            raise DataError(f'{file}, line {number}: write an object like {{"path": "a.jpg", "label": "cat"}}')
        refuse_twins([_name(name) for name in cells], f"{file}, line {number},")
        for name, value in cells.items():
            column = columns.setdefault(_name(name), [])
            column += [None] * (len(lines) - len(column))
            column[len(lines) :] = [value]
        lines.append(number)
    return lines, {name: column + [None] * (len(lines) - len(column)) for name, column in columns.items()}


def _stream(content: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")


def _csv_records(file: str, content: bytes, delimiters: str) -> tuple[Sequence[int], Columns]:
    """The records of a table whose first line is the header; the delimiter is the one that gives most columns."""
    head = next(filter(str.strip, _stream(content)), "")
    delimiter = max(delimiters, key=head.count)
    reader = csv.reader(_stream(content), delimiter=delimiter, skipinitialspace=True, strict=True)
    lines = array("q")
    names: list[str] = []
    cells: list[list[object]] = []
    known: list[dict[str, str]] = []  # the texts of a column that are there once, such as its labels
    try:
        for record in reader:
            if not any(map(str.strip, record)):
                continue
            if not names:
                names, cells, known = [_name(cell) for cell in record], [[] for _ in record], [{} for _ in record]
                refuse_twins(names, file)
                continue
            if len(record) > len(names) and any(map(str.strip, record[len(names) :])):
                raise DataError(
                    f"{file}, line {reader.line_num}: {len(record)} cells for {len(names)} columns; "
                    f'put text with {delimiter!r} in quotes: "…"'
                )
            lines.append(reader.line_num)
            record += [""] * (len(names) - len(record))
            for column, same, cell in zip(cells, known, record, strict=False):
                column.append(same.setdefault(cell, cell) if len(same) < MOST_KNOWN else same.get(cell, cell))
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: {error}") from error
    return lines, dict(zip(names, cells, strict=True))
