"""The nearest neighbours of images by their features, without a matrix of all pairs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

SHORT = 96  # components of the shortened features that find candidates
CANDIDATES = 12  # per image; their cosines are computed in full
GROUP = 64  # cosines per group whose maximum is found first
BLOCK_BYTES = 12_000_000  # per block of cosines
READ_BYTES = 4_000_000  # per block of features


def nearest(features: Tensor, count: int = 5) -> tuple[Tensor, Tensor]:
    """The nearest rows of each row: cosines (N, count) of float32, the highest first, and row numbers.

        cosines, numbers = nearest(features, count=5)

    features: (N, D). Their mean is subtracted, because it does not tell images apart. A row is not its own neighbour;
    with fewer than `count` other rows the result has fewer columns. Candidates have the highest cosines of the first 96
    principal components, so among many equally near rows some may be missed.
    """
    if len(features) < 2:
        return torch.empty(len(features), 0), torch.empty(len(features), 0, dtype=torch.int64)
    mean = mean_of(features)
    short = shortened(features, SHORT, unit=True)
    functional.normalize(short, out=short)
    most = min(CANDIDATES, len(features) - 1)
    count, size = min(count, most), max(1, BLOCK_BYTES // (4 * len(features)))
    cosines, numbers = torch.empty(len(features), count), torch.empty(len(features), count, dtype=torch.int64)
    room = torch.empty(min(size, len(features)), len(features))
    for rows in torch.arange(len(features)).split(size):
        likeness = torch.mm(short[rows], short.T, out=room[: len(rows)])
        likeness[torch.arange(len(rows)), rows] = -torch.inf
        candidates = highest(likeness, most)
        own = functional.normalize(features[rows].float() - mean)
        exact = [(own * functional.normalize(features[other].float() - mean)).sum(1) for other in candidates.T]
        cosines[rows], best = torch.stack(exact, 1).topk(count)
        numbers[rows] = candidates.gather(1, best)
    return cosines, numbers


def highest(values: Tensor, count: int) -> Tensor:
    """The indices of the highest values (rows, N) of each row, (rows, count), like `topk` but faster.

    Each of them is in one of the groups with the highest maxima.
    """
    whole = values.shape[1] - values.shape[1] % GROUP
    groups = values[:, :whole].unflatten(1, (-1, GROUP)) if whole else values[:, :0, None]
    if groups.shape[1] <= count:
        return values.topk(count).indices
    best = groups.amax(2).topk(count).indices[:, :, None]
    rest = torch.arange(whole, values.shape[1]).expand(len(values), -1)
    numbers = torch.cat([(best * GROUP + torch.arange(GROUP)).flatten(1), rest], 1)
    return numbers.gather(1, values.gather(1, numbers).topk(count).indices)


def mean_of(features: Tensor) -> Tensor:
    """The mean of all rows, (D,) of float32, block by block."""
    total = torch.zeros(features.shape[1], dtype=torch.float64)
    for block in features.split(_rows(features)):
        total += block.sum(0, dtype=torch.float64)
    return (total / len(features)).float()


def shortened(features: Tensor, count: int, *, unit: bool = False) -> Tensor:
    """The first `count` principal components of the centred rows, (N, at most count) of float32.

    unit: scale each row to length 1 first. A randomised range finder with two power iterations finds the directions
    (Halko, Martinsson & Tropp 2011). It avoids a D × D matrix, which takes gigabytes for VGG16's 25,088 features.
    """
    mean, width = mean_of(features), features.shape[1]

    def blocks() -> Iterator[Tensor]:
        for block in features.split(_rows(features)):
            centred = block - mean
            yield functional.normalize(centred, out=centred) if unit else centred

    if width <= count:
        return torch.cat(list(blocks()))
    found = torch.randn(width, min(count + 16, width), generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        product = torch.zeros(width, found.shape[1])
        for block in blocks():
            product += block.T @ (block @ found)
        found = torch.linalg.qr(product).Q
    scatter = torch.zeros(found.shape[1], found.shape[1])
    for block in blocks():
        short = block @ found
        scatter += short.T @ short
    found = found @ torch.linalg.eigh(scatter).eigenvectors[:, -count:]
    rows, done = torch.empty(len(features), count), 0
    for block in blocks():
        torch.mm(block, found, out=rows[done : done + len(block)])
        done += len(block)
    return rows


def _rows(features: Tensor) -> int:
    return max(1, READ_BYTES // (4 * features.shape[1]))
