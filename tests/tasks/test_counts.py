from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from frostline.tasks.counts import counted, counts_of

matrices = st.integers(1, 12).flatmap(lambda n: arrays(np.int64, (n, n), elements=st.integers(0, 99)))


@given(matrices)
def test_counts_are_those_of_the_matrix(matrix: np.ndarray) -> None:
    counts = counts_of(matrix)
    assert np.array_equal(counts.matrix(), matrix)
    assert counts.of_class.tolist() == matrix.sum(1).tolist()
    assert counts.taken_for.tolist() == matrix.sum(0).tolist()
    assert counts.right.tolist() == matrix.diagonal().tolist()
    assert counts.total == matrix.sum()
    cells = np.argwhere(matrix)
    true, predicted = np.repeat(cells, matrix[tuple(cells.T)], axis=0).T
    assert np.array_equal(counted(true, predicted, len(matrix)).matrix(), matrix)


@given(matrices)
def test_the_most_confused_are_the_largest_off_the_diagonal(matrix: np.ndarray) -> None:
    pairs = counts_of(matrix).most_confused(5)
    assert [n for n, _, _ in pairs] == [matrix[true, predicted] for _, true, predicted in pairs]
    off = sorted(matrix[~np.eye(len(matrix), dtype=bool)], reverse=True)
    assert [n for n, _, _ in pairs] == [count for count in off[:5] if count]
    assert all(true != predicted for _, true, predicted in pairs)


@given(matrices, st.integers(1, 12))
def test_neighbours_are_put_together_until_they_fit(matrix: np.ndarray, most: int) -> None:
    small = counts_of(matrix).matrix(most)
    assert len(small) <= most
    assert small.sum() == matrix.sum()
    assert len(matrix) > most or np.array_equal(small, matrix)


def test_of_nothing_there_is_nothing() -> None:
    nothing = counted([], [], 3)
    assert (nothing.total, nothing.of_class.tolist(), nothing.most_confused(3)) == (0, [0, 0, 0], [])
