"""Moments of rows: mean, scatter matrix and products with targets, all that a least-squares head needs, in one pass.

Each block is centred on its own mean in float64, and blocks are joined as by Chan, Golub & LeVeque ("Algorithms for
Computing the Sample Variance", 1983): features with a large mean keep all their digits, whatever the order of the rows.
The same rule adds the moments of parts, machines or sites.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

WORK = 256_000  # numbers of a block: its float64 copy stays in the processor's cache,
MOST = 8_000_000  # but a wide block has as many rows as numbers each, so that adding its moments costs little

NARROW = 512  # features whose products one thread computes; with so few, several threads can have blocks of their own

Block = tuple[Tensor, Tensor, Tensor | None]  # rows (B, D), targets and weights (B,), None where all are 1


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over weighted rows of float64; those of two sets of rows add up to those of both.

    total: the summed weight of the rows. mean: (D,). scatter: the scatter matrix, squares and products around the mean,
        (D, D).
    products: the same rows times their targets, (classes, D). counts: the summed weight of each class, (classes,).
    """

    total: float
    mean: Tensor
    scatter: Tensor
    products: Tensor
    counts: Tensor

    def __add__(self, other: Moments) -> Moments:
        total = self.total + other.total
        if not total:
            return self
        mean = (self.total * self.mean + other.total * other.mean) / total
        apart = (other.mean - self.mean) * (self.total * other.total / total) ** 0.5
        scatter = self.scatter + other.scatter + apart.outer(apart)
        return Moments(total, mean, scatter, self._around(mean) + other._around(mean), self.counts + other.counts)

    def _around(self, mean: Tensor) -> Tensor:
        """The products of rows around another mean."""
        return self.products - self.counts.outer(mean - self.mean)


def moments_of(blocks: Iterable[Block], width: int, classes: int) -> Moments:
    """The sums over all rows, read once.

    Targets are class numbers (B,) of int64, or indicators (B, classes) of 0 and 1. Weights are 0 or more.

    >>> rows, labels = torch.tensor([[1.0], [3.0], [8.0]]), torch.tensor([0, 0, 1])
    >>> found = moments_of([(rows[:2], labels[:2], None), (rows[2:], labels[2:], None)], 1, 2)
    >>> found.mean.tolist(), round(found.scatter.item(), 6), found.counts.tolist()
    ([4.0], 26.0, [2.0, 1.0])
    """
    found = Moments(0.0, *(torch.zeros(shape, dtype=torch.float64) for shape in _shapes(width, classes)))
    size = max(WORK // width, min(width, MOST // width), 1)
    with one_blas_thread():
        for rows, targets, weights in blocks:
            for start in range(0, len(rows), size):
                piece = slice(start, start + size)
                found += _of_block(rows[piece], targets[piece], None if weights is None else weights[piece], classes)
    return found


def _shapes(width: int, classes: int) -> tuple[tuple[int, ...], ...]:
    return (width,), (width, width), (classes, width), (classes,)


def _of_block(x: Tensor, targets: Tensor, weights: Tensor | None, classes: int) -> Moments:
    each = torch.ones(len(x), dtype=torch.float64) if weights is None else weights.double()
    total = float(each.sum())
    if not total:
        zero = (torch.zeros(shape, dtype=torch.float64) for shape in _shapes(x.shape[1], classes))
        return Moments(0.0, *zero)
    rows = x.to(torch.float64, copy=True)
    mean = each @ rows / total
    rows -= mean
    weighted = rows if weights is None else rows * each[:, None]
    products = torch.zeros(classes, x.shape[1], dtype=torch.float64)
    row, label = (slice(None), targets) if targets.ndim == 1 else targets.nonzero(as_tuple=True)  # most are 0
    products.index_add_(0, label, weighted[row])
    counts = torch.zeros(classes, dtype=torch.float64).index_add_(0, label, each[row])
    root = rows if weights is None else rows * each.sqrt()[:, None]
    return Moments(total, mean, _squared(root), products, counts)


def _squared(rows: Tensor) -> Tensor:
    """The products of all pairs of columns. NumPy computes half of them, in one thread; torch all, in all threads."""
    if rows.shape[1] > NARROW:
        return rows.T @ rows
    with np.errstate(all="ignore"):  # what is not finite is for the caller to name
        return torch.from_numpy(rows.numpy().T @ rows.numpy())


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS computes in the thread that calls it.

    Its own threads spin while they wait and take the processor from others: 20 times slower beside torch's.
    """
    with _libraries().limit(limits=1, user_api="blas"):
        yield


@functools.cache
def _libraries() -> ThreadpoolController:
    """The libraries of this process with their own threads; finding them takes as long as a small solution."""
    return ThreadpoolController()
