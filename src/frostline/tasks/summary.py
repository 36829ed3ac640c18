"""Metrics in one line, and of every class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from frostline.tasks.intervals import ratio

SHOWN = {"mean_iou": "mean IoU", "mean_ap": "mean AP", "f1": "F1"}  # what people call these figures


def summary(measured: Mapping[str, Any], best_of: int = 0) -> str:
    """Metrics in one line.

    best_of: of how many epochs these images chose the best one; more than one makes their figures a little too good,
        and the line says so.

    >>> summary({"accuracy": 0.95, "interval": [0.9, 0.97], "loss": 0.15, "n": 153}, best_of=12)
    'accuracy 0.9500 (95 %: 0.9000 … 0.9700), log-loss 0.1500, n = 153, the best of 12 epochs on these images'
    """
    low, high = measured["interval"]
    more = "".join(f"{name} {measured[key]:.4f}, " for key, name in SHOWN.items() if measured.get(key) is not None)
    chosen = f", the best of {best_of} epochs on these images" if best_of > 1 else ""
    return (
        f"{more}accuracy {measured['accuracy']:.4f} (95 %: {low:.4f} … {high:.4f}), "
        f"log-loss {measured['loss']:.4f}, n = {measured['n']}{chosen}"
    )


def per_class(matrix: np.ndarray, classes: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """n, recall, precision and F1 of every class, from counts (classes, classes), true by predicted."""
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
