"""One label per image: cross-entropy, accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from frostline.tasks import Outputs, Task, losses
from frostline.tasks.calibration import calibration_error
from frostline.tasks.classwise import macro, macro_intervals, per_class
from frostline.tasks.clustered import by_groups
from frostline.tasks.counts import Counts, counted
from frostline.tasks.intervals import interval_of, wilson

MANY, TOP = 20, 5  # with more classes than MANY, also report the accuracy among the TOP most probable ones


def outputs(logits: Tensor, targets: Tensor) -> Outputs:
    """logits (B, classes) against class numbers (B,)."""
    return Outputs(logits, targets, functional.cross_entropy(logits, targets, reduction="none"))


def measure(outputs: Outputs) -> dict[str, float]:
    """Accuracy (0 … 1) and mean cross-entropy in nats."""
    return {"accuracy": accuracy(outputs.logits, outputs.targets), "loss": float(outputs.losses.mean())}


def accuracy(logits: Tensor, targets: Tensor) -> float:
    """The share of images whose most probable class is right."""
    return int((logits.argmax(1) == targets).sum()) / max(1, len(targets))


def scores(outputs: Outputs) -> Tensor:
    """1 for each image whose most probable class is right, else 0."""
    return (outputs.logits.argmax(1) == outputs.targets).double()


def metrics(outputs: Outputs, classes: tuple[str, ...], group: np.ndarray | None = None) -> dict[str, Any]:
    """Accuracy with its 95 % interval, log-loss in nats, balanced accuracy, macro F1, and metrics per class.

    `intervals` holds the other intervals; `ece` is the expected calibration error (tasks/calibration.py). Above 20
    classes it adds the share of images whose class is among the five most probable ones.
    The recall of a class without images is null, and so is the precision of a class that is never predicted.
    group: as in `Task`.
    """
    counts, n = confusion(outputs, len(classes)), len(outputs)
    intervals = {**macro_intervals(counts), "loss": interval_of(outputs.losses.numpy())}
    top = {}
    if len(classes) > MANY:
        hits = int((outputs.logits.topk(TOP, 1).indices == outputs.targets[:, None]).any(1).sum())
        top, intervals["top5_accuracy"] = {"top5_accuracy": hits / max(1, n)}, list(wilson(hits, n))
    figures = {
        **measure(outputs),
        **macro(counts),
        **top,
        **calibration_error(outputs.logits, outputs.targets, group),
        "n": n,
        "interval": list(wilson(int(counts.right.sum()), n)),
        "intervals": intervals,
        "per_class": per_class(counts, classes),
    }
    return figures if group is None else by_groups(figures, outputs, group, classes)


def confusion(outputs: Outputs, count: int) -> Counts:
    """The confusion counts of images over `count` classes."""
    return counted(outputs.targets.numpy(), outputs.logits.argmax(1).numpy(), count)


def probabilities(logits: Tensor) -> Tensor:
    return logits.softmax(1)


def label(probabilities: Tensor, classes: tuple[str, ...]) -> tuple[str, float]:
    """The most probable class."""
    best = int(probabilities.argmax())
    return classes[best], float(probabilities[best])


def predictions(
    names: Sequence[str], split: str, outputs: Outputs, classes: tuple[str, ...]
) -> list[tuple[object, ...]]:
    """For each image its class, the predicted class, and the probability of that."""
    highest, predicted = probabilities(outputs.logits).max(1)
    columns = (outputs.targets.tolist(), predicted.tolist(), highest.tolist())
    return [
        (name, split, classes[target], classes[best], f"{p:.6f}")
        for name, target, best, p in zip(names, *columns, strict=True)
    ]


TASK = Task(
    name="classification",
    losses={"cross-entropy": losses.cross_entropy, "focal": losses.focal},
    columns=("path", "split", "label", "predicted", "probability"),
    outputs=outputs,
    accuracy=accuracy,
    scores=scores,
    measure=measure,
    scored_by={
        "accuracy": lambda outputs: measure(outputs)["accuracy"],
        "balanced_accuracy": lambda outputs: macro(confusion(outputs, outputs.logits.shape[1]))["balanced_accuracy"],
        "f1": lambda outputs: macro(confusion(outputs, outputs.logits.shape[1]))["macro_f1"],
    },
    metrics=metrics,
    probabilities=probabilities,
    label=label,
    predictions=predictions,
)
