"""The file of raw numbers: machine, versions, and every single run, written anew after each of them."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

Document = dict[str, Any]
Key = tuple[str, str, int, int]


def open_document(file: Path, machine: dict[str, Any]) -> Document:
    """What is in the file, or an empty document; runs of two machines do not belong in one table."""
    if not file.is_file():
        return {"machine": machine, "memory": "sum of PSS over all processes", "versions": {}, "runs": []}
    document: Document = json.loads(file.read_text(encoding="utf-8"))
    if any(document["machine"][name] != machine[name] for name in ("cpu", "cores")):
        raise SystemExit(f"{file} holds runs of another machine; give another file with --out")
    return document


def key(run: dict[str, Any]) -> Key:
    return run["work"], run["who"], run["epochs"], run["repeat"]


def done(document: Document) -> set[Key]:
    """The runs that need not be measured again; those that failed do."""
    return {key(run) for run in document["runs"] if "failed" not in run}


def forget(document: Document, keys: Collection[Key]) -> None:
    document["runs"] = [run for run in document["runs"] if key(run) not in keys]


def write(document: Document, file: Path) -> None:
    """Whole or not at all, so that an interruption costs the run that it hits and no other."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(file)


def last_json(text: str) -> dict[str, Any]:
    """What a run answered: all that it printed if that is one document, else its last line that is one."""
    for part in (text, *reversed(text.splitlines())):
        try:
            found = json.loads(part)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    raise ValueError("no JSON object in what was printed")


def last_line(text: str) -> str:
    """The line that says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
