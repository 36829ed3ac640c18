"""How good a classifier is, with how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from frostline.classifier.artifact import load_classifier
from frostline.data import Data, read_for_evaluation
from frostline.data.targets import targets_of
from frostline.data.unreadable import refuse_too_many
from frostline.data.views import PLAIN
from frostline.errors import DataError
from frostline.machine import find_machine
from frostline.runs.run import Run, load_run
from frostline.tasks import Outputs, join, task_of


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
    classifier = load_classifier(run, model, find_machine(device, "fp32"))
    seed = (run if isinstance(run, Run) else load_run(run)).config.get("seed", 0)
    images, chosen = read_for_evaluation(data, classifier.classes, split, classifier.task, seed=seed, download=download)
    if not len(images):
        raise DataError(f"no images to measure in {data}")
    task = task_of(classifier.task)
    targets = targets_of(images, PLAIN, classifier.preprocessing)
    parts: list[Outputs] = []
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
