"""How sure a measured proportion is."""

from __future__ import annotations

import math


def wilson(correct: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927): right also for few images and near 0 and 1."""
    if n == 0:
        return 0.0, 1.0
    p, square = correct / n, z * z
    middle = (p + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * math.sqrt(p * (1 - p) / n + square / (4 * n * n))
    return max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))  # p is inside but for rounding


def ratio(part: float, whole: float) -> float | None:
    """A share as a plain number; None of nothing."""
    return float(part / whole) if whole else None
