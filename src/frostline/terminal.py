"""Output for people: lines and progress bars, on standard error or, in a notebook, in the cell's output.

Lines are records of the logger "frostline". Its handler prints them, which suits a notebook or a shell. A program that
wants them elsewhere configures it like any logger:

    log = logging.getLogger("frostline")
    log.setLevel(logging.WARNING)                 # nothing
    log.handlers.clear(); log.propagate = True    # to the handlers of the program
"""

from __future__ import annotations

import contextlib
import html
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

EVERY_LINE = 10.0  # seconds between progress lines, if there is no bar
EVERY_BAR = 0.2


@dataclass(frozen=True)
class Audience:
    """Where lines go: to people unless quiet, to a file, and to a list."""

    quiet: bool = False
    log: Path | None = None
    lines: list[str] | None = None


_own: ContextVar[Audience | None] = ContextVar("audience", default=None)
_all: list[Audience] = []  # one per open `quiet`, `logged` or `recorded` of the process, latest last
_all_lock = threading.Lock()


class Advance(Protocol):
    """Call it with the number of newly finished items."""

    def __call__(self, count: int, /) -> None: ...


class Screen(logging.Handler):
    """Prints each line to the current standard error (in a notebook, standard output), in its encoding."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is None:  # as under pythonw
            return
        stream = sys.stdout if in_notebook() else sys.stderr  # a notebook shows standard error like an error
        line, encoding = record.getMessage(), getattr(stream, "encoding", None) or "utf-8"
        with contextlib.suppress(OSError, ValueError):
            print(line.encode(encoding, "replace").decode(encoding), file=stream, flush=True)


logger = logging.getLogger("frostline")
if not logger.handlers:  # otherwise the program has configured it
    logger.addHandler(Screen())
    logger.propagate = False
if logger.level == logging.NOTSET:
    logger.setLevel(logging.INFO)


def quiet(on: bool = True) -> contextlib.AbstractContextManager[None]:
    """Show nothing in this context, including threads started in it; lines still go to the file of `logged`."""
    audience = _own.get() or Audience()
    return _listening(replace(audience, quiet=on or audience.quiet))


def logged(file: Path) -> contextlib.AbstractContextManager[None]:
    """Append every line of this context to the file, including those of threads started in it."""
    return _listening(replace(_own.get() or Audience(), log=file))


@contextlib.contextmanager
def recorded() -> Iterator[list[str]]:
    """Collect the lines of this context, for a log that does not exist yet."""
    lines: list[str] = []
    with _listening(replace(_own.get() or Audience(), lines=lines)):
        yield lines


@contextlib.contextmanager
def _listening(audience: Audience) -> Iterator[None]:
    token = _own.set(audience)
    with _all_lock:
        _all.append(audience)
    try:
        yield
    finally:
        _own.reset(token)
        with _all_lock:
            _all.remove(audience)


def _audience() -> Audience:
    """The audience that this thread opened; in a pool's thread, which opened none, the latest one of the process."""
    own = _own.get()
    if own is not None:
        return own
    with _all_lock:
        return _all[-1] if _all else Audience()


def say(line: str) -> None:
    """Print one line for people, with control characters made visible."""
    line, audience = printable(line), _audience()
    if audience.lines is not None:
        audience.lines.append(line)
    if audience.log is not None:
        with contextlib.suppress(OSError), audience.log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    if not audience.quiet:
        logger.info("%s", line)


def printable(text: str) -> str:
    """The text with control characters and undecodable bytes escaped, so that no file name can control a terminal."""
    if text.isprintable():  # a picture as text is long
        return text
    safe = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in safe)


def progress(label: str, total: int, unit: str) -> contextlib.AbstractContextManager[Advance]:
    """Show the progress of a long task: a bar on a terminal or in a notebook, elsewhere a line every ten seconds.

    Rate and remaining time appear after the first second.
    """
    if _audience().quiet or sys.stderr is None:
        return contextlib.nullcontext(lambda _: None)
    if in_notebook():
        return _shown(Passage(label, total, unit), _notebook_bar(), EVERY_BAR)
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return _terminal_bar(Passage(label, total, unit))
    return _shown(Passage(label, total, unit), lambda passage: logger.info("%s", passage), EVERY_LINE)


@dataclass
class Passage:
    """The number of finished items, and the start time."""

    label: str
    total: int
    unit: str
    done: int = 0
    started: float = field(default_factory=lambda: time.monotonic())

    @property
    def rate(self) -> str:
        """ "31/s"; empty in the first second, when it would be unreliable."""
        seconds = time.monotonic() - self.started
        return f"{self.done / seconds:.0f}/s" if seconds >= 1 and self.done else ""

    @property
    def left(self) -> str:
        if not self.rate:
            return ""
        return human_seconds((time.monotonic() - self.started) * (self.total - self.done) / self.done) + " left"

    def __str__(self) -> str:
        of_all = f"{self.label}: {self.done:,} of {self.total:,} {self.unit}"
        return ", ".join(printable(part) for part in (of_all, self.rate, self.left) if part)


@contextlib.contextmanager
def _shown(passage: Passage, show: Callable[[Passage], None], every: float) -> Iterator[Advance]:
    """Show the progress every `every` seconds; a bar also at the end."""
    last = passage.started

    def advance(count: int) -> None:
        nonlocal last
        passage.done += count
        now = time.monotonic()
        if now - last >= every:
            last = now
            show(passage)

    yield advance
    if every == EVERY_BAR:
        show(passage)


def in_notebook() -> bool:
    """Whether output goes to a notebook."""
    return type(sys.stderr).__module__.startswith("ipykernel")


def _notebook_bar() -> Callable[[Passage], None]:
    """A function that draws a bar in the output of a cell on its first call and then updates it."""
    from IPython.display import display

    shown: list[Any] = []

    def show(passage: Passage) -> None:
        words = html.escape(str(passage))
        bar = f'<progress value="{passage.done}" max="{passage.total}"></progress> <small>{words}</small>'
        content = {"text/plain": str(passage), "text/html": bar}
        if shown:
            shown[0].update(content, raw=True)
        else:
            shown.append(display(content, raw=True, display_id=True))

    return show


@contextlib.contextmanager
def _terminal_bar(passage: Passage) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:,}/{task.total:,} {task.fields[unit]}", markup=False),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(passage.label, total=passage.total, unit=passage.unit, rate="", left="")

        def advance(count: int) -> None:
            passage.done += count
            bars.update(task, completed=passage.done, rate=passage.rate, left=passage.left)

        yield advance


def human_bytes(count: float) -> str:
    """ "98 MB": decimal units, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if count >= 9.95 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_seconds(seconds: float) -> str:
    """ "14 s", "2 min 5 s", "1 h 10 min"."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def human_count(count: int) -> str:
    """ "8.4 M" parameters."""
    for limit, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if count >= limit * 0.99995:
            return f"{count / limit:.1f} {unit}"
    return str(count)
