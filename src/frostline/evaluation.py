"""How good a classifier is, with how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from frostline.classifier import load_classifier
from frostline.data import Data, read_for_evaluation
from frostline.data.views import PLAIN
from frostline.errors import DataError
from frostline.machine import machine
from frostline.run import Run, load_run
from frostline.targets import targets_of
from frostline.tasks import Answers, join, task_of

MOST_UNREADABLE = 0.01
SHOWN = {"mean_iou": "mean IoU", "mean_ap": "mean AP", "f1": "F1"}  # what people call these figures


def summary(measured: dict[str, Any]) -> str:
    """Metrics in one line."""
    low, high = measured["interval"]
    more = "".join(f"{name} {measured[key]:.4f}, " for key, name in SHOWN.items() if measured.get(key) is not None)
    return (
        f"{more}accuracy {measured['accuracy']:.4f} (95 %: {low:.4f} … {high:.4f}), "
        f"log-loss {measured['loss']:.4f}, n = {measured['n']}"
    )


def refuse_too_many(unreadable: list[tuple[str, str]], total: int) -> None:
    """Some bad files are a fact of life; over 1 % of them is a broken data set: raises DataError."""
    if len(unreadable) > MOST_UNREADABLE * total:
        raise DataError(
            f"{len(unreadable)} of {total} images cannot be read, more than {MOST_UNREADABLE:.0%}: "
            f"{named(unreadable)}; repair or remove them"
        )


def named(unreadable: list[tuple[str, str]], most: int = 5) -> str:
    """The first few unreadable files with their reasons."""
    shown = "; ".join(f"{name} ({reason})" for name, reason in unreadable[:most])
    return shown + (f" and {len(unreadable) - most} more" if len(unreadable) > most else "")


def evaluate(
    run: str | Path | Run,
    data: Data,
    *,
    split: str = "",
    device: str = "auto",
    download: bool = False,
    model: torch.nn.Module | None = None,
) -> dict[str, Any]:
    """Measure a run's classifier on labelled images, matched to its classes by name.

    split: "train", "valid", "test" or "all"; by default all of a plain folder, else the test split, else validation.
    Returns accuracy, loss, n, interval, per_class as `evaluate --json` prints them.
    Raises DataError for classes that the run does not know or too many unreadable images.
    """
    classifier = load_classifier(run, model, machine(device, "fp32"))
    seed = (run if isinstance(run, Run) else load_run(run)).config.get("seed", 0)
    images, chosen = read_for_evaluation(data, classifier.classes, split, classifier.task, seed=seed, download=download)
    if not len(images):
        raise DataError(f"no images to measure in {data}")
    task = task_of(classifier.task)
    targets = targets_of(images, PLAIN, classifier.preprocessing)
    parts: list[Answers] = []
    failed: dict[int, str] = {}
    for rows, logits, reasons in classifier.logits(images, "evaluating"):
        if rows:
            parts.append(task.answers(logits, targets(torch.tensor(rows))))
        failed |= reasons
    unreadable = [(images.names[i], failed[i]) for i in sorted(failed)]
    refuse_too_many(unreadable, len(images))
    return {
        **task.metrics(join(parts), classifier.classes),
        "split": chosen,
        "unreadable": [{"path": name, "error": reason} for name, reason in unreadable],
    }
