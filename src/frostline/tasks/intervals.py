"""How sure a measured proportion is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

Z = NormalDist().inv_cdf(0.975)  # 1.96: that many standard errors to each side hold 95 %


def wilson(correct: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927): right also for few images and near 0 and 1.

    It is `scipy.stats.binomtest(correct, n).proportion_ci(method="wilson")`, without the 0.4 s that scipy.stats takes
    to import.

    >>> wilson(145, 153)
    (0.9001997652498361, 0.9733057803193103)
    """
    if n == 0:
        return 0.0, 1.0
    p, square = correct / n, Z * Z
    middle = (p + square / (2 * n)) / (1 + square / n)
    half = Z / (1 + square / n) * math.sqrt(p * (1 - p) / n + square / (4 * n * n))
    return max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))  # p is inside but for rounding


def ratio(part: float, whole: float) -> float | None:
    """A share as a plain number; None of nothing."""
    return float(part / whole) if whole else None


def accuracy_of(scores: Sequence[float]) -> dict[str, Any]:
    """Accuracy, n and 95 % interval from the score of each image, 0 … 1: Wilson's where they are 0 and 1 only.

    Of shares, as of the pixels that are right, it is the normal one over images. Accuracy is None of no images.

    >>> accuracy_of([1, 1, 0, 1])["accuracy"]
    0.75
    """
    n, total = len(scores), math.fsum(scores)
    if all(score in (0, 1) for score in scores):
        return {"accuracy": ratio(total, n), "n": n, "interval": list(wilson(round(total), n))}
    mean = total / n
    spread = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / max(1, n - 1))
    half = Z * spread / math.sqrt(n) if n > 1 else 1.0
    return {"accuracy": mean, "n": n, "interval": [max(0.0, mean - half), min(1.0, mean + half)]}
