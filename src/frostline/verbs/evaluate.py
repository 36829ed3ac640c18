"""How good a classifier is, with how sure that is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frostline import terminal
from frostline.checks import suspects
from frostline.checks.findings import Checks, Finding, ordered
from frostline.checks.look import look
from frostline.checks.samples import samples_of
from frostline.classifier.artifact import load_classifier
from frostline.classifier.classifier import Classifier
from frostline.data import Data, Images, read_for_evaluation
from frostline.data.targets import targets_of
from frostline.data.unreadable import refuse_too_many
from frostline.data.views import PLAIN
from frostline.errors import DataError
from frostline.machine import find_machine
from frostline.runs.run import Run, load_run
from frostline.tasks import Outputs, join, task_of
from frostline.tasks.intervals import accuracy_of


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

    Returns accuracy (0 … 1), loss (nats), n, interval, per_class as `evaluate --json` prints them; `trained_on`, how
    many of the images the run was trained on, byte for byte; `without_leaks`, accuracy, n and interval of the others
    where there are such; and `checks`, how many findings of each kind there are about the images (checks/findings.py).
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
    task = task_of(classifier.task)
    images, outputs, unreadable = _outputs(classifier, images)
    refuse_too_many(unreadable, len(images) + len(unreadable))
    known = trained_on(run, images)
    if known.any():
        terminal.say(
            f"note: the run was trained on {known.sum()} of these {len(images)} images; expect less on images new to it"
        )
    scores = task.scores(outputs).numpy()
    return {
        **task.metrics(outputs, classifier.classes),
        "split": chosen,
        "trained_on": int(known.sum()),
        "checks": _checks(classifier, images, outputs, chosen, known, unreadable).counts,
        **({"without_leaks": accuracy_of(scores[~known].tolist())} if known.any() else {}),
        "unreadable": [{"path": name, "error": reason} for name, reason in unreadable],
    }


def _outputs(classifier: Classifier, images: Images) -> tuple[Images, Outputs, list[tuple[str, str]]]:
    """The images that could be read, what the classifier makes of them, and (name, reason) of the others."""
    task, targets = task_of(classifier.task), targets_of(images, PLAIN, classifier.preprocessing)
    failed: dict[int, str] = {}

    def batches() -> Iterator[Outputs]:
        for numbers, logits, reasons in classifier.logits(images, "evaluating"):
            failed.update(reasons)
            if numbers:
                yield task.outputs(logits, targets(torch.tensor(numbers)))

    outputs = join(batches())
    return images.without(failed.keys()), outputs, [(images.names[i], failed[i]) for i in sorted(failed)]


def trained_on(run: Run, images: Images) -> np.ndarray:
    """Which images the run was trained on, byte for byte, (N,) of bool: split.csv has what stands for their content.

    With those for validation, where its head was solved on them in the end.
    """
    seen = ("train", "valid") if run.metrics.get("refit") else ("train",)
    trained = {record["digest"] for record in run.split if record["split"] in seen} - {""}
    return np.array([digest.tobytes().hex() in trained for digest in images.digests.all()], bool)


def _checks(
    classifier: Classifier,
    images: Images,
    outputs: Outputs,
    split: str,
    known: np.ndarray,
    unreadable: list[tuple[str, str]],
) -> Checks:
    """What a look at the measured images finds; labels are held against what the classifier says."""
    samples = samples_of({split: images}, classifier.classes)
    found = list(look(samples, [(split, name, reason) for name, reason in unreadable]).findings)
    for number in np.flatnonzero(known).tolist():
        label = samples.labels_at([number])
        found.append(Finding("leak", samples.names([number]), (split,), label, 1.0, "the run was trained on it"))
    if samples.one_label:
        others = np.flatnonzero(~known)
        probabilities = task_of(classifier.task).probabilities(outputs.logits[torch.from_numpy(others)])
        found += suspects.findings(samples_of({split: images.take(others)}, classifier.classes), probabilities.numpy())
    return ordered(len(images) + len(unreadable), found)
