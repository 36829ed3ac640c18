"""Metrics in one line, and of every class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from frostline.tasks.intervals import ratio

IMBALANCED = 10  # times as many images of the largest class as of the smallest: accuracy alone then says little
SHOWN = {"mean_iou": "mean IoU", "mean_ap": "mean AP", "f1": "F1"}  # what people call these figures


def the_best_of(candidates: int, backbones: int = 1) -> str:
    """Among how many the same images have chosen: their figures are a little too good then; "" for a single one.

    >>> the_best_of(12), the_best_of(1, 3)
    ('the best of 12 candidates', 'the best of 3 backbones')
    """
    many = [f"{count} {what}" for count, what in ((backbones, "backbones"), (candidates, "candidates")) if count > 1]
    return f"the best of {' and '.join(many)}" if many else ""


def summary(measured: Mapping[str, Any], best_of: int = 0, backbones: int = 1) -> str:
    """Metrics in one line.

    best_of, backbones: of how many states of the network, and backbones, these images chose the best, which is said.

    >>> summary({"accuracy": 0.95, "interval": [0.9, 0.97], "loss": 0.15, "n": 153}, best_of=12)
    'accuracy 0.9500 (95 %: 0.9000 … 0.9700), log-loss 0.1500, n = 153, the best of 12 candidates on these images'
    """
    low, high = measured["interval"]
    of_class = [row["n"] for row in (measured.get("per_class") or {}).values() if row.get("n")]
    unequal = "balanced_accuracy" in measured and bool(of_class) and max(of_class) > IMBALANCED * min(of_class)
    more = "".join(f"{name} {measured[key]:.4f}, " for key, name in SHOWN.items() if measured.get(key) is not None)
    if unequal:
        more += f"balanced accuracy {measured['balanced_accuracy']:.4f}, macro F1 {measured['macro_f1']:.4f}, "
    best = the_best_of(best_of, backbones)
    chosen = f", {best} on these images" if best else ""
    return (
        f"{more}accuracy {measured['accuracy']:.4f} (95 %: {low:.4f} … {high:.4f}), "
        f"log-loss {measured['loss']:.4f}, n = {measured['n']}{chosen}"
    )


def in_words(measured: Mapping[str, Any]) -> str:
    """Accuracy with its interval and n.

    >>> in_words({"accuracy": 0.95, "interval": [0.9, 0.97], "n": 153})
    'accuracy 0.9500 (95 %: 0.9000 … 0.9700), n = 153'
    """
    if not measured["n"]:
        return "no image is left to measure"
    low, high = measured["interval"]
    return f"accuracy {measured['accuracy']:.4f} (95 %: {low:.4f} … {high:.4f}), n = {measured['n']}"


def macro(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Means over the classes that were measured, each counting the same: balanced accuracy and macro F1, 0 … 1.

    As scikit-learn's balanced_accuracy_score and f1_score(average="macro") count them, of the classes that have images;
    0 where none has.

    >>> macro({"ant": {"n": 9, "recall": 1.0, "f1": 0.9}, "bee": {"n": 1, "recall": 0.0, "f1": None}})
    {'balanced_accuracy': 0.5, 'macro_f1': 0.45}
    """
    there = [row for row in rows.values() if row["n"]]
    count = max(1, len(there))
    recalls, f1s = sum(row["recall"] for row in there), sum(row["f1"] or 0.0 for row in there)
    return {"balanced_accuracy": recalls / count, "macro_f1": f1s / count}


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
