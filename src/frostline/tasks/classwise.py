"""Metrics per class, and their unweighted means over classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from frostline.tasks.counts import Counts
from frostline.tasks.intervals import influence_interval, ratio, wilson


def per_class(counts: Counts, classes: tuple[str, ...], *, intervals: bool = True) -> dict[str, dict[str, Any]]:
    """n, recall, precision and F1 per class.

    intervals: add 95 % intervals (Wilson) of recall and precision, for counts of images; pixels are not independent.
    """
    right, of_class, predicted = counts.right, counts.of_class, counts.taken_for
    return {
        name: {
            **figures(right[i], of_class[i], predicted[i]),
            **(shares(right[i], of_class[i], predicted[i]) if intervals else {}),
        }
        for i, name in enumerate(classes)
    }


def figures(right: int, of_class: int, predicted: int) -> dict[str, Any]:
    """n, recall, precision and F1 of a class from its right, true and predicted counts; None for 0 / 0."""
    return {
        "n": int(of_class),
        "recall": ratio(right, of_class),
        "precision": ratio(right, predicted),
        "f1": ratio(2 * right, of_class + predicted),
    }


def shares(right: int, of_class: int, predicted: int) -> dict[str, list[float] | None]:
    """The 95 % intervals of recall and precision from the counts; None for an empty denominator."""
    whole = {"recall_interval": of_class, "precision_interval": predicted}
    return {name: list(wilson(int(right), int(n))) if n else None for name, n in whole.items()}


def macro(counts: Counts) -> dict[str, float]:
    """Unweighted means over the classes that have images: balanced accuracy and macro F1, 0 … 1.

    They equal scikit-learn's balanced_accuracy_score and f1_score(average="macro") over the classes that have images;
    0 without any.

    >>> from frostline.tasks.counts import counts_of
    >>> macro(counts_of(np.array([[9, 0], [1, 0]])))["balanced_accuracy"]
    0.5
    """
    recalls, f1s = recalls_and_f1s(counts.right, counts.of_class, counts.taken_for)
    return {"balanced_accuracy": float(recalls.mean()), "macro_f1": float(f1s.mean())} if len(recalls) else _NOTHING


_NOTHING = {"balanced_accuracy": 0.0, "macro_f1": 0.0}


def recalls_and_f1s(right: np.ndarray, of_class: np.ndarray, taken_for: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recalls and F1s of the classes that have images, from right, true and predicted counts (classes,)."""
    there = of_class > 0
    return right[there] / of_class[there], 2 * right[there] / (of_class + taken_for)[there]


def macro_intervals(counts: Counts) -> dict[str, list[float]]:
    """The 95 % intervals of `macro`, without resampling.

    Each image changes either figure by its influence; this gives the variance of the sum over all images (the
    delta method, for F1 Takahashi et al. 2022), and Wilson's interval with that variance respects 0 and 1. For the
    variance alone each class gets one extra image, right with the overall accuracy: three right images of a class
    do not prove that all are right.
    """
    there = np.flatnonzero(counts.of_class)
    count = len(there)
    if not count:
        return {name: [0.0, 1.0] for name in _NOTHING}
    right, of_class, taken_for, total = counts.right[there], counts.of_class[there], counts.taken_for, counts.total
    rate = (right.sum() + 1) / (total + 2)
    other = (1 - rate) / max(1, counts.classes - 1)  # the share of the extra image for each other class
    hits, of_class, predicted = right + rate, of_class + 1, taken_for + other * count
    predicted[there] += rate - other
    recalls, both = hits / of_class, of_class + predicted[there]
    f1s = 2 * hits / both
    slope = np.zeros(counts.classes)  # loss in a class's F1 per image that is of it, or predicted as it
    slope[there] = f1s / both
    squares = {
        "balanced_accuracy": (hits * (1 - recalls) ** 2 + (of_class - hits) * recalls**2) / of_class**2,
        "macro_f1": hits * (2 / both - 2 * slope[there]) ** 2 + _taken(counts, slope, other)[there],
    }
    values, smooth = macro(counts), {"balanced_accuracy": recalls.mean(), "macro_f1": f1s.mean()}
    more = (total + count) / total
    return {
        name: influence_interval(values[name], float(smooth[name]), float(each.sum() / count**2 * more))
        for name, each in squares.items()
    }


def _taken(counts: Counts, slope: np.ndarray, other: float) -> np.ndarray:
    """Per class, the summed squared influences on macro F1 of its images that are predicted as another class.

    other: the share of the extra image that is added to each cell off the diagonal.
    """
    wrong = counts.true != counts.predicted
    true, predicted = counts.true[wrong], counts.predicted[wrong]
    sums = np.bincount(true, counts.n[wrong] * (slope[true] + slope[predicted]) ** 2, len(slope))
    everywhere = len(slope) * slope**2 + 2 * slope * slope.sum() + (slope**2).sum()  # of a whole row of the matrix
    spread: np.ndarray = sums + other * (everywhere - 4 * slope**2)
    return spread


def row_of(measured: Mapping[str, Any]) -> dict[str, float | None]:
    """The metrics of a class without n and intervals, for a table."""
    return {name: value for name, value in measured.items() if name != "n" and not name.endswith("_interval")}
