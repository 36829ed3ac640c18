"""Images that are unlike all others: much farther from their nearest neighbours than images usually are."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def strange(cosines: Tensor) -> list[tuple[int, float]]:
    """The rows that lie far out, each with how far, the farthest first.

    cosines: (N, k), of the nearest neighbours of each row, as `nearest` gives them. The distance of a row is
    1 - their mean. Far is what is beyond Tukey's outer fence, three times the distance between the quartiles above the
    upper one; how far is its distance by the median.
    """
    if len(cosines) < 20 or not cosines.shape[1]:
        return []
    distances = 1 - cosines.mean(1).numpy()
    low, middle, high = np.quantile(distances, [0.25, 0.5, 0.75])
    far = np.flatnonzero(distances > high + 3 * (high - low))
    order = far[np.argsort(-distances[far], kind="stable")]
    return [(int(i), float(distances[i] / max(middle, 1e-6))) for i in order]
