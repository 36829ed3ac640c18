"""Outliers: images much farther from their nearest neighbours than usual."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def strange(cosines: Tensor) -> list[tuple[int, float]]:
    """The outliers among the rows, each with its relative distance, the farthest first.

    cosines: (N, k), of the nearest neighbours of each row, from `nearest`. The distance of a row is 1 - their mean. An
    outlier is beyond Tukey's outer fence: the upper quartile plus three times the interquartile range. Its relative
    distance is its distance divided by the median.
    """
    if len(cosines) < 20 or not cosines.shape[1]:
        return []
    distances = 1 - cosines.mean(1).numpy()
    low, middle, high = np.quantile(distances, [0.25, 0.5, 0.75])
    far = np.flatnonzero(distances > high + 3 * (high - low))
    order = far[np.argsort(-distances[far], kind="stable")]
    return [(int(i), float(distances[i] / max(middle, 1e-6))) for i in order]
