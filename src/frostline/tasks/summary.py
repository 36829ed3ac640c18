"""Metrics in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

IMBALANCED = 10  # ratio of the largest to the smallest class above which accuracy alone is misleading
UNEQUAL = {"balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1"}
TOP = {"top5_accuracy": "among the first 5"}
SHOWN = {"mean_iou": "mean IoU", "mean_ap": "mean AP", "f1": "F1"}  # names of these metrics in messages


def the_best_of(candidates: int, backbones: int = 1) -> str:
    """The number of candidates among which the same images chose, so that their figures are a little too good; "" for
    1.

    >>> the_best_of(12), the_best_of(1, 3)
    ('the best of 12 candidates', 'the best of 3 backbones')
    """
    many = [f"{count} {what}" for count, what in ((backbones, "backbones"), (candidates, "candidates")) if count > 1]
    return f"the best of {' and '.join(many)}" if many else ""


def summary(measured: Mapping[str, Any], best_of: int = 0, backbones: int = 1) -> str:
    """Metrics in one line, each with its 95 % interval if it has one.

    best_of, backbones: the numbers of network states and backbones among which these images chose the best.

    >>> summary({"accuracy": 0.95, "interval": [0.9, 0.97], "loss": 0.15, "n": 153}, best_of=12)
    'accuracy 0.9500 (95 %: 0.9000 … 0.9700), log-loss 0.1500, n = 153, the best of 12 candidates on these images'
    """
    intervals = {"accuracy": measured["interval"], **(measured.get("intervals") or {})}
    of_class = [row["n"] for row in (measured.get("per_class") or {}).values() if row.get("n")]
    unequal = "balanced_accuracy" in measured and bool(of_class) and max(of_class) > IMBALANCED * min(of_class)
    names = {**SHOWN, **(UNEQUAL if unequal else {}), "accuracy": "accuracy", **TOP, "loss": "log-loss"}
    figures = [
        _figure(text, measured[key], intervals.get(key)) for key, text in names.items() if measured.get(key) is not None
    ]
    best = the_best_of(best_of, backbones)
    n = f"n = {measured['n']}" + (f" in {measured['groups']} groups" if "groups" in measured else "")
    return ", ".join([*figures, n, *([f"{best} on these images"] if best else [])])


def _figure(name: str, value: float, interval: Sequence[float] | None) -> str:
    return f"{name} {value:.4f}{between(interval)}"


def between(interval: Sequence[float] | None, shown: Callable[[float], str] = "{:.4f}".format) -> str:
    """A 95 % interval behind a figure; "" without one.

    >>> between([0.9, 0.97])
    ' (95 %: 0.9000 … 0.9700)'
    """
    return f" (95 %: {shown(interval[0])} … {shown(interval[1])})" if interval else ""


def in_points(difference: float, low: float, high: float) -> str:
    """A difference of accuracies with its 95 % interval.

    >>> in_points(0.513, -0.107, 0.734)
    '+51.3 points (95 %: -10.7 … +73.4)'
    """
    return f"{100 * difference:+.1f} points (95 %: {100 * low:+.1f} … {100 * high:+.1f})"


def in_words(measured: Mapping[str, Any]) -> str:
    """Accuracy with its interval and n.

    >>> in_words({"accuracy": 0.95, "interval": [0.9, 0.97], "n": 153})
    'accuracy 0.9500 (95 %: 0.9000 … 0.9700), n = 153'
    """
    if not measured["n"]:
        return "no images left to measure"
    return f"{_figure('accuracy', measured['accuracy'], measured['interval'])}, n = {measured['n']}"
