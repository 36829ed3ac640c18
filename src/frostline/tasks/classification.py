"""One label an image: cross-entropy, accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from frostline.tasks import Outputs, losses
from frostline.tasks.intervals import ratio, wilson

COLUMNS = ("path", "split", "label", "predicted", "probability")
LOSSES: dict[str, Callable[..., Tensor]] = {"cross-entropy": losses.cross_entropy, "focal": losses.focal}


def answers(logits: Tensor, targets: Tensor) -> Outputs:
    """logits (B, classes) against class numbers (B,)."""
    return Outputs(logits, targets, functional.cross_entropy(logits, targets, reduction="none"))


def measure(answers: Outputs) -> dict[str, float]:
    """Accuracy (0 … 1) and mean cross-entropy in nats."""
    return {"accuracy": accuracy(answers.outputs, answers.targets), "loss": float(answers.losses.mean())}


def accuracy(logits: Tensor, targets: Tensor) -> float:
    """The share of images whose most probable class is theirs."""
    return int((logits.argmax(1) == targets).sum()) / max(1, len(targets))


def metrics(answers: Outputs, classes: tuple[str, ...]) -> dict[str, Any]:
    """Accuracy with its 95 % interval, mean log-loss in nats, and recall, precision and F1 of every class.

    Of a class without images the recall is null, of one that is never predicted the precision.
    """
    matrix = confusion(answers, len(classes))
    interval = wilson(int(matrix.trace()), len(answers))
    return {**measure(answers), "n": len(answers), "interval": list(interval), "per_class": per_class(matrix, classes)}


def confusion(answers: Outputs, count: int) -> np.ndarray:
    """How many images (count, count) of each true class, by row, were given each class, by column."""
    matrix = np.zeros((count, count), np.int64)
    np.add.at(matrix, (answers.targets.numpy(), answers.outputs.argmax(1).numpy()), 1)
    return matrix


def per_class(matrix: np.ndarray, classes: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    right, of_class, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    return {
        name: {
            "n": int(of_class[i]),
            "recall": ratio(right[i], of_class[i]),
            "precision": ratio(right[i], predicted[i]),
            "f1": ratio(2 * right[i], of_class[i] + predicted[i]),
        }
        for i, name in enumerate(classes)
    }


def probabilities(logits: Tensor) -> Tensor:
    return logits.softmax(1)


def label(probabilities: Tensor, classes: tuple[str, ...]) -> tuple[str, float]:
    """The most probable class."""
    best = int(probabilities.argmax())
    return classes[best], float(probabilities[best])


def predictions(
    names: Sequence[str], split: str, answers: Outputs, classes: tuple[str, ...]
) -> list[tuple[object, ...]]:
    best, where = answers.outputs.softmax(1).max(1)
    return [
        (name, split, classes[target], classes[guess], f"{p:.6f}")
        for name, target, guess, p in zip(names, answers.targets.tolist(), where.tolist(), best.tolist(), strict=True)
    ]
