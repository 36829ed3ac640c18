"""Values as text: the cells of a table, YAML, and sizes such as 20GB."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from frostline.errors import UsageError, reason

NUMBER = re.compile(r"-?\d+(\.\d*)?([eE][+-]?\d+)?")
MOST_YAML_BYTES, MOST_ALIASES = 1_000_000, 100
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def safe_cell(value: object) -> object:
    """Quote text that starts with =, +, - or @, which a spreadsheet would read as a formula (as OWASP advises).

    A number such as -1 is no formula. Text that looks quoted already is quoted too, so that `plain_cell` can restore
    any text.
    """
    if not isinstance(value, str) or NUMBER.fullmatch(value):
        return value
    formula = value.lstrip("'").startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"))
    return f"'{value}" if formula else value


def csv_text(header: Sequence[str], records: Iterable[Sequence[object]]) -> str:
    """A table as CSV, one record per line, without formulas."""
    return "".join(csv_lines([header, *records]))


def csv_lines(records: Iterable[Sequence[object]]) -> Iterator[str]:
    """The lines of a CSV table, one by one; the first record has the column names."""
    lines: list[str] = []
    # The writer ends lines with "\r\n" and therefore quotes a "\r" in a name, which it would not do with "\n" alone.
    writer = csv.writer(SimpleNamespace(write=lambda line: lines.append(line[:-2] + "\n")))
    for record in records:
        writer.writerow([safe_cell(value) for value in record])
        yield lines.pop()


def plain_cell(cell: str) -> str:
    """The original text of a cell from `safe_cell`."""
    return cell[1:] if cell.startswith("'") and safe_cell(cell[1:]) != cell[1:] else cell


def finite(value: Any) -> Any:
    """A value of numbers, text, lists and mappings with None instead of NaN and infinity, which JSON lacks."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parse_bytes(text: str | int) -> int:
    """A number of bytes from "20 GB", "500MB" or a plain number; raises UsageError."""
    if isinstance(text, int):
        return text
    digits = text.strip().rstrip("kKmMgGtTbB ").strip()
    unit = text.strip()[len(digits) :].strip().lower()
    try:
        size = int(float(digits) * UNITS[unit if unit.endswith("b") or not unit else unit + "b"])
    except (ValueError, KeyError, OverflowError):
        size = -1
    if size < 0:
        raise UsageError(f"{text!r} is no size; write it as in 20GB or 500MB")
    return size


BOOLEAN, TEXT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:str"


class _Plain(yaml.SafeLoader):
    """Plain values only, no key twice, and few aliases: a handful of lines can unfold to gigabytes.

    A key such as `on` or `no` stays text: it is the name of an option or a class.
    """

    aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MOST_ALIASES:
                text = f"found more than {MOST_ALIASES} aliases"
                raise yaml.composer.ComposerError(problem=text, problem_mark=self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = set()
        for key, _ in node.value:
            if key.tag == BOOLEAN:
                key.tag = TEXT
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in keys:
                text = f"found the key {key.value!r} a second time"
                raise yaml.constructor.ConstructorError(problem=text, problem_mark=key.start_mark)
            keys.add((key.tag, key.value) if isinstance(key, yaml.ScalarNode) else key)
        return super().construct_mapping(node, deep)


def read_yaml(file: Path) -> Any:
    """The plain values of a YAML file; raises UsageError if it is invalid or too large to be written by hand."""
    if file.stat().st_size > MOST_YAML_BYTES:
        raise UsageError(f"{file} is larger than {MOST_YAML_BYTES:,} bytes: nobody's settings")
    try:
        text = file.read_text(encoding="utf-8")
    except ValueError as error:
        raise UsageError(f"{file} is not valid YAML: {reason(error)}") from error
    return plain_values(text, file)


def plain_values(text: str, file: Path) -> Any:
    """The same of the text of a file."""
    try:
        loader = _Plain(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UsageError(f"{file} is not valid YAML: {where}{error.problem or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not valid YAML: {reason(error)}") from error
