"""How good a classifier is, with how sure that is."""

from __future__ import annotations

import os.path
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from frostline import terminal
from frostline.classifier.artifact import load_classifier
from frostline.data import Data, Images, ImageSet, read_for_evaluation
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

    run: the folder that `fit` made, or its `Run`. data: everything that `fit` takes.
    split: "train", "valid", "test" or "all"; by default all of a plain folder, else the test split, else validation.
    model: the network (with any head) where the run was made with an `nn.Module` of your own.

    Returns accuracy (0 … 1), loss (nats), n, interval, per_class as `evaluate --json` prints them, and `trained_on`:
    how many of the images the run was trained on, as far as its split.csv and the images' paths tell.
    Raises DataError for classes that the run does not know or too many unreadable images.

    >>> evaluate("runs/pets", "more_photos/")["interval"]  # doctest: +SKIP
    [0.9002, 0.9733]
    """
    run = run if isinstance(run, Run) else load_run(run)
    classifier = load_classifier(run, model, find_machine(device, "fp32"))
    seed = run.config.get("seed", 0)
    images, chosen = read_for_evaluation(data, classifier.classes, split, classifier.task, seed=seed, download=download)
    if not len(images):
        raise DataError(f"no images to measure in {data}")
    trained_on = count_training_images(run, data, images)
    if trained_on:
        terminal.say(
            f"note: the run was trained on {trained_on} of these {len(images)} images; expect less on images new to it"
        )
    task, targets = task_of(classifier.task), targets_of(images, PLAIN, classifier.preprocessing)
    failed: dict[int, str] = {}

    def batches() -> Iterator[Outputs]:
        for numbers, logits, reasons in classifier.logits(images, "evaluating"):
            failed.update(reasons)
            if numbers:
                yield task.outputs(logits, targets(torch.tensor(numbers)))

    outputs = join(batches())
    unreadable = [(images.names[i], failed[i]) for i in sorted(failed)]
    refuse_too_many(unreadable, len(images))
    return {
        **task.metrics(outputs, classifier.classes),
        "split": chosen,
        "trained_on": trained_on,
        "unreadable": [{"path": name, "error": reason} for name, reason in unreadable],
    }


def count_training_images(run: Run, data: Data, images: Images) -> int:
    """How many of some images read from `data` the run was trained on; 0 where nothing tells.

    With those for validation, where its head was solved on them in the end. Files are told by their paths (one that
    was copied elsewhere is another), images of a known data set by its name and theirs.
    """
    origin = str(run.config.get("data", ""))
    seen = ("train", "valid") if run.metrics.get("refit") else ("train",)
    trained = {record["path"] for record in run.split if record["split"] in seen}
    if os.path.exists(origin):  # noqa: PTH110 (an empty origin is no path)
        folder = origin if os.path.isdir(origin) else os.path.dirname(origin)  # noqa: PTH112, PTH120
        files = {os.path.abspath(os.path.join(folder, name)) for name in trained}  # noqa: PTH100, PTH118
        return sum(isinstance(p, Path) and os.path.abspath(p) in files for p in images.pictures)  # noqa: PTH100
    source = data.origin if isinstance(data, ImageSet) else data if isinstance(data, (str, Path)) else ""
    same = bool(origin) and str(source).partition(":")[0] == origin.partition(":")[0]
    return sum(name in trained for name in images.names) if same else 0
