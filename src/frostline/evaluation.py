"""How good a classifier is, with how sure that is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frostline.classifier import load_classifier
from frostline.data import Data, read_for_evaluation
from frostline.data.images import Images
from frostline.errors import DataError
from frostline.machine import machine
from frostline.run import Run
from frostline.tasks import classification

MOST_UNREADABLE = 0.01


def wilson(correct: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927): right also for few images and near 0 and 1."""
    if n == 0:
        return 0.0, 1.0
    p, square = correct / n, z * z
    middle = (p + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * math.sqrt(p * (1 - p) / n + square / (4 * n * n))
    return max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))  # p is inside but for rounding


def metrics(logits: Tensor, targets: Tensor, classes: tuple[str, ...]) -> dict[str, Any]:
    """Accuracy with its 95 % interval, mean log-loss in nats, and recall, precision and F1 of every class.

    Of a class without images the recall is null, of one that is never predicted the precision.
    """
    predicted = logits.argmax(1)
    count = len(classes)
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (targets.numpy(), predicted.numpy()), 1)
    right, of_class, said = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    per_class = {
        name: {
            "n": int(of_class[i]),
            "recall": float(right[i] / of_class[i]) if of_class[i] else None,
            "precision": float(right[i] / said[i]) if said[i] else None,
            "f1": float(2 * right[i] / (of_class[i] + said[i])) if of_class[i] + said[i] else None,
        }
        for i, name in enumerate(classes)
    }
    measured = classification.measure(logits, targets)
    interval = wilson(int(right.sum()), len(targets))
    return {**measured, "n": len(targets), "interval": list(interval), "per_class": per_class}


def summary(measured: dict[str, Any]) -> str:
    """Metrics in one line."""
    low, high = measured["interval"]
    return (
        f"accuracy {measured['accuracy']:.4f} (95 %: {low:.4f} … {high:.4f}), "
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
    run: str | Path | Run, data: Data, *, split: str = "", device: str = "auto", model: torch.nn.Module | None = None
) -> dict[str, Any]:
    """Measure a run's classifier on labelled images, matched to its classes by name.

    split: "train", "valid", "test" or "all"; by default all of a plain folder, else the test split, else validation.
    Returns accuracy, loss, n, interval, per_class as `evaluate --json` prints them.
    Raises DataError for classes that the run does not know or too many unreadable images.
    """
    classifier = load_classifier(run, model, machine(device, "fp32"))
    images, chosen = read_for_evaluation(data, classifier.classes, split)
    if not len(images):
        raise DataError(f"no images to measure in {data}")
    rows: list[int] = []
    parts: list[Tensor] = []
    failed: dict[int, str] = {}
    for places, logits, reasons in classifier.logits(images, "evaluating"):
        rows += places
        parts.append(logits)
        failed |= reasons
    unreadable = [(images.names[i], failed[i]) for i in sorted(failed)]
    refuse_too_many(unreadable, len(images))
    targets = torch.from_numpy(images.targets[rows])
    return {
        **metrics(torch.cat(parts), targets, classifier.classes),
        "split": chosen,
        "unreadable": [{"path": name, "error": reason} for name, reason in unreadable],
    }


def predictions_of(images: Images, logits: Tensor, classes: tuple[str, ...], split: str) -> list[tuple[object, ...]]:
    """Rows of predictions.csv: path, split, label, prediction, probability."""
    best, where = logits.softmax(1).max(1)
    return [
        (name, split, classes[target], classes[guess], f"{p:.6f}")
        for name, target, guess, p in zip(images.names, images.targets, where.tolist(), best.tolist(), strict=True)
    ]
