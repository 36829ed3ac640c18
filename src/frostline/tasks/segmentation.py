"""The class of every pixel: cross-entropy or Dice, mean intersection over union."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from frostline.tasks import Outputs, losses
from frostline.tasks.classification import per_class
from frostline.tasks.intervals import ratio

COLUMNS = ("path", "split", "accuracy", "mean_iou", "loss")
LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross-entropy+dice": losses.cross_entropy_dice,
    "cross-entropy": losses.cross_entropy,
    "dice": losses.dice,
    "focal": losses.focal,
}


def answers(logits: Tensor, targets: Tensor) -> Outputs:
    """logits (B, classes, H, W) against class numbers (B, H, W); -100 counts for nothing."""
    count = logits.shape[1]
    each = functional.cross_entropy(logits, targets, reduction="none").flatten(1).sum(1)
    known = (targets >= 0).flatten(1)
    cells = (targets * count + logits.argmax(1)).flatten(1)
    counts = [torch.bincount(row[valid], minlength=count * count) for row, valid in zip(cells, known, strict=True)]
    nothing = torch.empty(len(targets), 0)
    return Outputs(torch.stack(counts).view(-1, count, count), nothing, each / known.sum(1).clamp(min=1))


def measure(answers: Outputs) -> dict[str, float]:
    """Share of the pixels that are right, mean cross-entropy of an image in nats, mean IoU over the classes there."""
    matrix = answers.outputs.sum(0).double()
    overlap = [iou for iou in _overlaps(matrix.numpy()) if iou is not None]
    return {
        "accuracy": float(matrix.trace() / matrix.sum().clamp(min=1)),
        "loss": float(answers.losses.mean()),
        "mean_iou": float(np.mean(overlap)) if overlap else 0.0,
    }


def accuracy(logits: Tensor, targets: Tensor) -> float:
    """The share of the pixels that are right, of those that count."""
    known = targets >= 0
    return float(((logits.argmax(1) == targets) & known).sum() / known.sum().clamp(min=1))


def metrics(answers: Outputs, classes: tuple[str, ...]) -> dict[str, Any]:
    """`measure`, and every class; `interval` is that of the pixel accuracy as it varies from image to image."""
    matrix = answers.outputs.sum(0).numpy()
    overlaps = _overlaps(matrix)
    classwise = per_class(matrix, classes)
    for name, overlap in zip(classes, overlaps, strict=True):
        classwise[name]["iou"] = overlap
    right, pixels = answers.outputs.diagonal(dim1=1, dim2=2).sum(1).double(), answers.outputs.sum((1, 2)).double()
    share = right / pixels.clamp(min=1)
    measured = measure(answers)
    half = 1.96 * float(share.std()) / len(share) ** 0.5 if len(share) > 1 else 1.0
    interval = [max(0.0, measured["accuracy"] - half), min(1.0, measured["accuracy"] + half)]
    return {**measured, "n": len(answers), "interval": interval, "per_class": classwise}


def _overlaps(matrix: np.ndarray) -> list[float | None]:
    """Intersection over union of every class; None for one that is neither there nor said."""
    right = matrix.diagonal()
    return [ratio(a, b) for a, b in zip(right, matrix.sum(0) + matrix.sum(1) - right, strict=True)]


def probabilities(logits: Tensor) -> Tensor:
    return logits.softmax(1)


def label(probabilities: Tensor, classes: tuple[str, ...]) -> tuple[str, float]:
    """The class of most pixels of (classes, H, W), and the mean probability of what is said of the pixels."""
    most, predicted = probabilities.max(0)
    common = int(torch.bincount(predicted.flatten(), minlength=len(classes)).argmax())
    return classes[common], float(most.mean())


def predictions(
    names: Sequence[str],
    split: str,
    answers: Outputs,
    classes: tuple[str, ...],  # noqa: ARG001
) -> list[tuple[object, ...]]:
    """Of every image how well its pixels were told; the masks themselves are what `predict` writes."""
    rows: list[tuple[object, ...]] = []
    for i, name in enumerate(names):
        one = measure(Outputs(answers.outputs[i : i + 1], answers.targets[i : i + 1], answers.losses[i : i + 1]))
        rows.append((name, split, *(f"{one[key]:.6f}" for key in COLUMNS[2:])))
    return rows
