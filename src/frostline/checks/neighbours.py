"""Which images are most like which: the nearest neighbours by features, without a matrix of all against all."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SHORT = 96  # numbers of a shortened feature, by which candidates are found
CANDIDATES = 12  # per image; their cosines are computed in full
BLOCK_BYTES = 48_000_000  # of cosines at once


def nearest(features: Tensor, count: int = 5) -> tuple[Tensor, Tensor]:
    """Of each row the rows most like it: cosines (N, count) of float32, the highest first, and their numbers.

        cosines, numbers = nearest(features, count=5)

    features: (N, D). Their mean is taken off, because what all images have in common tells none from another. A row is
    no neighbour of itself; where there are fewer than `count` others, as many as there are. Candidates are those of the
    highest cosines of the first 96 principal components; so of many that are as near as each other some may be missed.
    """
    if len(features) < 2:
        return torch.empty(len(features), 0), torch.empty(len(features), 0, dtype=torch.int64)
    centred = functional.normalize(features - features.mean(0))
    short = functional.normalize(centred @ directions(centred, SHORT))
    most = min(CANDIDATES, len(features) - 1)
    count, size = min(count, most), max(1, BLOCK_BYTES // (4 * len(features)))
    cosines, numbers = torch.empty(len(features), count), torch.empty(len(features), count, dtype=torch.int64)
    for rows in torch.arange(len(features)).split(size):
        likeness = short[rows] @ short.T
        likeness[torch.arange(len(rows)), rows] = -torch.inf
        candidates = likeness.topk(most).indices
        exact = torch.stack([(centred[rows] * centred[other]).sum(1) for other in candidates.T], 1)
        cosines[rows], best = exact.topk(count)
        numbers[rows] = candidates.gather(1, best)
    return cosines, numbers


def directions(centred: Tensor, count: int) -> Tensor:
    """The orthonormal directions (D, at most `count`) along which rows vary most; those of few numbers as they are.

    By a randomised range with two power iterations (Halko, Martinsson & Tropp 2011): a matrix of D × D, which of
    VGG16's 25,088 numbers takes gigabytes, is never made.
    """
    width = centred.shape[1]
    if width <= count:
        return torch.eye(width)
    found = torch.randn(width, min(count + 16, width), generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        found = torch.linalg.qr(centred.T @ (centred @ found)).Q
    _, _, vectors = torch.linalg.svd(centred @ found, full_matrices=False)
    result: Tensor = found @ vectors.T[:, :count]
    return result
