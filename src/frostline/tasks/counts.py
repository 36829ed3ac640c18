"""Confusion counts without a matrix, which would take 3 GB for 20,000 classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Counts:
    """A confusion matrix as its cells that are not 0, in row order.

    classes: their number. true, predicted: class numbers per cell, (cells,) of int64. n: the count per cell.
    """

    classes: int
    true: np.ndarray
    predicted: np.ndarray
    n: np.ndarray

    @property
    def total(self) -> int:
        return int(self.n.sum())

    @property
    def of_class(self) -> np.ndarray:
        """The number of images per true class, (classes,)."""
        return _sums(self.true, self.n, self.classes)

    @property
    def taken_for(self) -> np.ndarray:
        """The number of images per predicted class, (classes,)."""
        return _sums(self.predicted, self.n, self.classes)

    @property
    def right(self) -> np.ndarray:
        """The number of right images per class, (classes,)."""
        hit = self.true == self.predicted
        return _sums(self.true[hit], self.n[hit], self.classes)

    def matrix(self, most: int | None = None) -> np.ndarray:
        """True by predicted; with more than `most` classes, neighbouring classes are merged.

        >>> counted([0, 1, 2, 3], [0, 1, 3, 0], 4).matrix(most=2).tolist()
        [[2, 0], [1, 1]]
        """
        size = max(1, -(-self.classes // most)) if most else 1
        side = -(-self.classes // size)
        cells = np.zeros((side, side), np.int64)
        np.add.at(cells, (self.true // size, self.predicted // size), self.n)
        return cells

    def most_confused(self, most: int) -> list[tuple[int, int, int]]:
        """The largest cells off the diagonal, highest first: (n, true, predicted) of each."""
        wrong = np.flatnonzero(self.true != self.predicted)
        best = wrong[np.argsort(-self.n[wrong], kind="stable")[:most]]
        return [(int(self.n[i]), int(self.true[i]), int(self.predicted[i])) for i in best]


def counted(true: Sequence[int] | np.ndarray, predicted: Sequence[int] | np.ndarray, classes: int) -> Counts:
    """The counts of images by their true and predicted class numbers, (N,) each."""
    pairs = np.asarray(true, np.int64) * classes + np.asarray(predicted, np.int64)
    cells, n = np.unique(pairs, return_counts=True)
    return Counts(classes, cells // classes, cells % classes, n.astype(np.int64))


def counts_of(matrix: np.ndarray) -> Counts:
    """The counts of a matrix (classes, classes), true by predicted.

    >>> counts_of(np.array([[3, 1], [0, 4]])).most_confused(5)
    [(1, 0, 1)]
    """
    true, predicted = np.nonzero(matrix)
    return Counts(len(matrix), true, predicted, matrix[true, predicted])


def _sums(numbers: np.ndarray, n: np.ndarray, classes: int) -> np.ndarray:
    sums = np.zeros(classes, n.dtype)
    np.add.at(sums, numbers, n)
    return sums
