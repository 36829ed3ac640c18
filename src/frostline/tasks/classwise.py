"""Figures of every class, and their means, each class counting the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from frostline.tasks.intervals import influence_interval, ratio, wilson


def per_class(matrix: np.ndarray, classes: tuple[str, ...], *, intervals: bool = True) -> dict[str, dict[str, Any]]:
    """n, recall, precision and F1 of every class, from counts (classes, classes), true by predicted.

    intervals: with the 95 % intervals (Wilson) of recall and precision, for counts of images; pixels are no sample.
    """
    right, of_class, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    return {
        name: {
            **figures(right[i], of_class[i], predicted[i]),
            **(shares(right[i], of_class[i], predicted[i]) if intervals else {}),
        }
        for i, name in enumerate(classes)
    }


def figures(right: int, of_class: int, predicted: int) -> dict[str, Any]:
    """n, recall, precision and F1 of a class from how many are right, are of it, are taken for it; None of nothing."""
    return {
        "n": int(of_class),
        "recall": ratio(right, of_class),
        "precision": ratio(right, predicted),
        "f1": ratio(2 * right, of_class + predicted),
    }


def shares(right: int, of_class: int, predicted: int) -> dict[str, list[float] | None]:
    """The 95 % intervals of recall and precision from how many are right; None of nothing."""
    whole = {"recall_interval": of_class, "precision_interval": predicted}
    return {name: list(wilson(int(right), int(n))) if n else None for name, n in whole.items()}


def macro(matrix: np.ndarray) -> dict[str, float]:
    """Means over the classes that were measured, each counting the same: balanced accuracy and macro F1, 0 … 1.

    As scikit-learn's balanced_accuracy_score and f1_score(average="macro") count them, of the classes that have images;
    0 where none has.

    >>> macro(np.array([[9, 0], [1, 0]]))["balanced_accuracy"]
    0.5
    """
    recalls, f1s = _figures(matrix)
    return {"balanced_accuracy": float(recalls.mean()), "macro_f1": float(f1s.mean())} if len(recalls) else _NOTHING


_NOTHING = {"balanced_accuracy": 0.0, "macro_f1": 0.0}


def _figures(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and F1 of the classes that have images."""
    there = matrix.sum(1) > 0
    right, of_class, predicted = matrix.diagonal()[there], matrix.sum(1)[there], matrix.sum(0)[there]
    return right / of_class, 2 * right / (of_class + predicted)


def macro_intervals(matrix: np.ndarray) -> dict[str, list[float]]:
    """The 95 % intervals of `macro`, without resampling.

    One image more or less moves either figure by its influence; the variance of the sum over all images follows (the
    delta method, for F1 Takahashi et al. 2022), and Wilson's interval with that variance respects 0 and 1. For the
    variance alone each class gets one image more, that is right as often as all are: a class of three that are
    all right is not known for sure.
    """
    there = np.flatnonzero(matrix.sum(1))
    count = len(there)
    if not count:
        return {name: [0.0, 1.0] for name in _NOTHING}
    rows = matrix[there].astype(np.float64)
    total, right = rows.sum(), float(rows[np.arange(count), there].sum())
    rate = (right + 1) / (total + 2)
    rows += (1 - rate) / max(1, matrix.shape[1] - 1)
    rows[np.arange(count), there] += rate - (1 - rate) / max(1, matrix.shape[1] - 1)
    own = np.zeros_like(rows)
    own[np.arange(count), there] = 1
    hits, of_class, predicted = rows[np.arange(count), there], rows.sum(1), rows.sum(0)
    recalls, both = hits / of_class, of_class + predicted[there]
    f1s = 2 * hits / both
    slope = np.zeros(matrix.shape[1])  # what an image that is predicted as a class takes from its F1
    slope[there] = f1s / both
    influences = {
        "balanced_accuracy": (own - recalls[:, None]) / of_class[:, None],
        "macro_f1": 2 * own / both[:, None] - (f1s / both)[:, None] - slope,
    }
    values, smooth = macro(matrix), {"balanced_accuracy": recalls.mean(), "macro_f1": f1s.mean()}
    return {
        name: influence_interval(
            values[name], float(smooth[name]), float((rows * influence**2).sum() / count**2 * rows.sum() / total)
        )
        for name, influence in influences.items()
    }


def row_of(measured: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures of a class without n and without intervals, as a table shows them."""
    return {name: value for name, value in measured.items() if name != "n" and not name.endswith("_interval")}
