"""The history and the decisions of a fit: printed, and added to its progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from frostline.fitting import lines
from frostline.fitting.decisions import Decision
from frostline.fitting.job import Job
from frostline.fitting.progress import Progress
from frostline.plan import Phase
from frostline.runs.run import write_csv

FROM_TRAINING = ("epoch", "lr", "train_loss", "train_accuracy", "valid_loss", "deciding_loss")


def record(
    job: Job, progress: Progress, phase: Phase, epoch: Mapping[str, Any], valid: Mapping[str, float], seconds: float
) -> Progress:
    """Add one epoch to the history, write it and print it."""
    progress = recorded(job, progress, phase, [(epoch, valid, seconds)])
    lines.say_epoch(phase, progress.epochs[-1], valid)
    job.logbook.epoch(progress.epochs[-1])
    return progress


def recorded(
    job: Job,
    progress: Progress,
    phase: Phase,
    epochs: Sequence[tuple[Mapping[str, Any], Mapping[str, float], float]],
) -> Progress:
    """Add epochs to the history and write it. epochs: each with its figures of validation and its seconds."""
    number = len(progress.phases) + 1
    entries = [_entry(number, phase, *each) for each in epochs]
    progress = replace(progress, epochs=(*progress.epochs, *entries))
    write_history(job, progress)
    return progress


def _entry(
    number: int, phase: Phase, epoch: Mapping[str, Any], valid: Mapping[str, float], seconds: float
) -> dict[str, Any]:
    """One line of history.csv."""
    others = {f"valid_{key}": value for key, value in valid.items() if key not in ("accuracy", "loss")}
    figures = {key: epoch.get(key, "") for key in FROM_TRAINING}
    about = {"phase": number, "frostline": phase.frostline}
    return {**about, **figures, "valid_accuracy": valid["accuracy"], **others, "seconds": seconds}


def write_history(job: Job, progress: Progress) -> None:
    """history.csv: a line per epoch."""
    write_csv(job.run, "history.csv", list(progress.epochs[-1]), [list(each.values()) for each in progress.epochs])


def decided(progress: Progress, made: Decision, epoch: int | None = None) -> Progress:
    """Print and add a decision about a phase. The first phase needs none: it replaces a random head.

    epoch: the epoch that was compared; None for a solved head.
    """
    if not progress.phases:
        return progress
    lines.say_decision(made, epoch)
    return replace(progress, decisions=(*progress.decisions, made.as_json()))
