"""Experiment trackers, which also get the figures of a fit. There is one file per tool, loaded only if it is used.

Each file has `opened(folder, config)`, which returns a `Tracker`. This module imports neither the tools nor torch.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from frostline import extras, terminal
from frostline.errors import MachineError, reason

Tool = Literal["tensorboard", "wandb", "mlflow"]
Figures = Mapping[str, float]


class Tracker(Protocol):
    """The open record of one fit in one tool. where: the command or the address that shows it."""

    where: str

    def epoch(self, step: int, figures: Figures) -> None:
        """Record one epoch; steps count from 1 through all phases."""

    def result(self, figures: Figures, pictures: Sequence[Path]) -> None:
        """Record the final figures of the fit and its pictures (PNG)."""

    def close(self, finished: bool) -> None:
        """Close the record. finished: False if the fit failed or was interrupted."""


def refuse_missing(tools: Sequence[Tool]) -> None:
    """Raises MachineError if a tool is not installed."""
    for tool in tools:
        extras.refuse_missing(f"--log-to {tool}", [tool], [tool])


@dataclass(eq=False)
class Logbook:
    """The open trackers of one fit. If one fails, this is printed once, and the fit continues without it."""

    trackers: dict[Tool, Tracker] = field(default_factory=dict)
    steps: int = 0

    def epoch(self, entry: Mapping[str, Any]) -> None:
        """Record one entry of the history; the epochs of attempts that are given up later count as steps, too."""
        self.steps += 1
        figures = of_epoch(entry)
        self._each(lambda tracker: tracker.epoch(self.steps, figures))

    def result(self, metrics: Mapping[str, Any], pictures: Sequence[Path]) -> None:
        """Record the final figures and pictures. metrics: as in metrics.json."""
        figures = of_result(metrics)
        self._each(lambda tracker: tracker.result(figures, pictures))

    def close(self, finished: bool) -> None:
        self._each(lambda tracker: tracker.close(finished))

    def _each(self, tell: Callable[[Tracker], None]) -> None:
        for tool, tracker in list(self.trackers.items()):
            try:
                tell(tracker)
            except Exception as error:  # no fit is lost to an error of a tool, its server or its disk
                del self.trackers[tool]
                terminal.say(f"{tool} failed and is told no more, the fit goes on: {reason(error)}")
                with contextlib.suppress(Exception):
                    tracker.close(False)


@contextlib.contextmanager
def opened(tools: Sequence[Tool], folder: Path, config: Mapping[str, Any]) -> Iterator[Logbook]:
    """A logbook with a record in each tool, closed at the end. folder: of the run. config: as in config.yaml.

    Raises MachineError if a tool is missing or cannot open a record.
    """
    refuse_missing(tools)
    book, finished = Logbook(), False
    try:
        for tool in tools:
            book.trackers[tool] = _opened(tool, folder, config)
            terminal.say(f"logged to {tool}: {book.trackers[tool].where}")
        yield book
        finished = True
    finally:
        book.close(finished)


def _opened(tool: Tool, folder: Path, config: Mapping[str, Any]) -> Tracker:
    try:
        tracker: Tracker = importlib.import_module(f"frostline.trackers.{tool}").opened(folder, config)
    except Exception as error:
        raise MachineError(
            f"{tool} opens no record: {reason(error)}; mend that, or leave out --log-to {tool}"
        ) from error
    return tracker


def of_epoch(entry: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an epoch, in the groups that trackers show.

    >>> of_epoch({"phase": 1, "frostline": "head", "train_loss": "", "valid_loss": 0.5})
    {'phase': 1.0, 'valid/loss': 0.5}
    """
    return {_grouped(name): float(value) for name, value in entry.items() if _is_number(value)}


def _grouped(name: str) -> str:
    group, _, rest = name.partition("_")
    return f"{group}/{rest}" if group in ("train", "valid") and rest else name


def of_result(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The figures for validation and test images with the 95 % interval of the accuracy, and the seconds.

    >>> sorted(of_result({"valid": {"accuracy": 0.9, "interval": [0.8, 0.95], "per_class": []}, "seconds": 5.0}))
    ['final/seconds', 'final/valid/accuracy', 'final/valid/accuracy_high', 'final/valid/accuracy_low']
    """
    figures: dict[str, Any] = {}
    for split in ("valid", "test"):
        measured = metrics.get(split) or {}
        figures |= {f"{split}/{name}": value for name, value in measured.items()}
        low, high = measured.get("interval") or (None, None)
        figures |= {f"{split}/accuracy_low": low, f"{split}/accuracy_high": high}
    figures["seconds"] = metrics.get("seconds")
    return {f"final/{name}": float(value) for name, value in figures.items() if _is_number(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
