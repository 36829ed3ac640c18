"""The difference of two classifiers on the same images.

Hard images are mostly hard for both, so the difference, counted image by image, is far more precise than
either accuracy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from frostline.tasks.intervals import Z


@dataclass(frozen=True)
class Paired:
    """A difference of means over the same images.

    difference: mean of the first scores minus mean of the second ones, -1 … 1.
    low, high: its 95 % interval. p_value: the probability of a difference this large if there is none.
    """

    difference: float
    low: float
    high: float
    p_value: float


def paired_difference(first: np.ndarray, second: np.ndarray) -> Paired:
    """The difference of two classifiers, from the scores (N,), 0 … 1, of each on the same N images in the same order.

    For scores of 0 or 1 (an image is right or wrong) the interval is Bonett and Price's (2012) adjusted Wald
    interval for paired proportions, which works for few images, and the p-value is McNemar's exact test: it uses only
    images that one has right and the other wrong. For other scores (shares of pixels) both are Student's for
    paired samples.

    Raises ValueError without images, and for different numbers of scores.

    >>> paired_difference(np.array([1, 1, 1, 1]), np.array([1, 1, 0, 1])).difference
    0.25
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"{len(first)} and {len(second)} scores; give as many of both, and at least one")
    difference = float(np.mean(first) - np.mean(second))
    if np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all():
        return _proportions(difference, int(np.sum(first > second)), int(np.sum(first < second)), len(first))
    return _means(difference, np.asarray(first, np.float64) - second)


def _proportions(difference: float, better: int, worse: int, n: int) -> Paired:
    from scipy.stats import binomtest  # takes 0.4 s to import, and only a comparison needs it

    p, q = (better + 1) / (n + 2), (worse + 1) / (n + 2)
    half = Z * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    p_value = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return Paired(difference, max(-1.0, p - q - half), min(1.0, p - q + half), p_value)


def _means(difference: float, differences: np.ndarray) -> Paired:
    from scipy.stats import ttest_1samp

    spread = float(differences.std(ddof=1)) if len(differences) > 1 else math.nan
    if math.isnan(spread):
        return Paired(difference, -1.0, 1.0, 1.0)
    if spread < 1e-9:  # the same difference on every image, up to rounding
        return Paired(difference, difference, difference, float(abs(difference) < 1e-9))
    test = ttest_1samp(differences, 0)
    interval = test.confidence_interval(0.95)
    return Paired(difference, max(-1.0, float(interval.low)), min(1.0, float(interval.high)), float(test.pvalue))
