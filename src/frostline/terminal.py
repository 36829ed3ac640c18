"""What people see: calm lines and, on a terminal, progress bars. All of it goes to standard error."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
_log: ContextVar[Path | None] = ContextVar("log", default=None)


class Advance(Protocol):
    """Call it with how many more are done."""

    def __call__(self, count: int, /) -> None: ...


@contextlib.contextmanager
def quiet(on: bool = True) -> Iterator[None]:
    """Nothing is shown inside (it is still logged)."""
    token = _quiet.set(on or _quiet.get())
    try:
        yield
    finally:
        _quiet.reset(token)


@contextlib.contextmanager
def logged(file: Path) -> Iterator[None]:
    """Every line said inside is also appended to the file."""
    token = _log.set(file)
    try:
        yield
    finally:
        _log.reset(token)


def say(line: str) -> None:
    """One line for people; control characters in it are made visible."""
    line = printable(line)
    log = _log.get()
    if log is not None:
        with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    if not _quiet.get():
        encoding = sys.stderr.encoding or "utf-8"
        with contextlib.suppress(OSError, ValueError):
            print(line.encode(encoding, "replace").decode(encoding), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """The text with control characters and undecodable bytes escaped, so that no file name can steer a terminal."""
    safe = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in safe)


@contextlib.contextmanager
def progress(label: str, total: int, unit: str) -> Iterator[Advance]:
    """A bar with rate and time left while something long runs; nothing without a terminal."""
    if _quiet.get() or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} {task.fields[unit]}", markup=False),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, total=total, unit=unit, rate="")

        def advance(count: int) -> None:
            bars.advance(task, count)
            speed = bars.tasks[0].speed
            bars.update(task, rate=f"{speed:.0f}/s" if speed else "")

        yield advance


def human_bytes(count: float) -> str:
    """ "98 MB": decimal units, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if count >= 9.95 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_count(count: int) -> str:
    """ "8.4 M" parameters."""
    for limit, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if count >= limit * 0.99995:
            return f"{count / limit:.1f} {unit}"
    return str(count)
