"""The command line in this process: what it prints, how it ends, and what it costs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.cli import main

SECONDS = 10  # more than any answer to bad input may take
NOBODY = 65_534
STATUS, PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Answer:
    """How a command ended. grown: megabytes of memory that it took at most on top of what was there before."""

    code: int
    out: str
    err: str
    seconds: float
    grown: float

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The last line, which is the error."""
        return self.err.splitlines()[-1] if self.err else ""


def command(*arguments: object, seconds: float = SECONDS) -> Answer:
    """Run `frostline` with these arguments. It never shows a traceback, never asks for a report, and is in time."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape", newline="") for _ in range(2))
    before, started, code = _reset_peak(), time.perf_counter(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
    took, grown = time.perf_counter() - started, _peak() - before
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8", "surrogateescape"))  # type: ignore[attr-defined]
    answer = Answer(int(code or 0), *texts, took, grown)
    assert "Traceback" not in answer.err, answer.err
    assert answer.code != 1, answer.err
    assert "\x1b" not in answer.err, answer.err
    if answer.code not in (0, 130, 143):
        assert answer.error.startswith("frostline: "), answer.err
    assert took < seconds, f"{took:.1f} s: {answer.err}"
    return answer


def _reset_peak() -> float:
    """The memory now, in MB, which becomes the peak so far; 0 where the system does not tell."""
    with contextlib.suppress(OSError):
        PEAK.write_text("5")
    return _peak()


def _peak() -> float:
    if not STATUS.exists():
        return 0.0
    return int(STATUS.read_text().partition("VmHWM:")[2].split()[0]) / 1000


@contextlib.contextmanager
def without_rights() -> Iterator[None]:
    """Modes of files bind in this context also where the tests run as root."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
