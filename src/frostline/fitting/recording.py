"""The history and the decisions of a fit: printed, and added to its progress."""

from __future__ import annotations

from collections.abc import Mapping
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
    others = {key: value for key, value in valid.items() if key not in ("accuracy", "loss")}
    entry: dict[str, Any] = {"phase": len(progress.phases) + 1, "frostline": phase.frostline}
    entry |= {key: epoch.get(key, "") for key in FROM_TRAINING}
    entry |= {"valid_accuracy": valid["accuracy"], **{f"valid_{key}": value for key, value in others.items()}}
    entry["seconds"] = seconds
    lines.say_epoch(phase, entry, valid)
    job.logbook.epoch(entry)
    progress = replace(progress, epochs=(*progress.epochs, entry))
    write_history(job, progress)
    return progress


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
