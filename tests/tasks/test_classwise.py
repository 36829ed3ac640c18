from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score

from frostline.tasks.classwise import macro, macro_intervals, per_class, row_of
from frostline.tasks.intervals import wilson

matrices = (
    st.integers(2, 5)
    .flatmap(lambda n: st.lists(st.lists(st.integers(0, 30), min_size=n, max_size=n), min_size=n, max_size=n))
    .map(np.array)
)


@given(matrices.filter(lambda m: (m.sum(1) > 0).all()))
def test_macro_figures_are_scikit_learns(matrix):
    cells = np.argwhere(matrix)
    true, predicted = np.repeat(cells, matrix[tuple(cells.T)], axis=0).T
    ours = macro(matrix)
    assert ours["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(true, predicted))
    assert ours["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro", zero_division=0))


@given(matrices)
def test_the_intervals_hold_their_figures(matrix):
    figures = macro(matrix)
    for name, (low, high) in macro_intervals(matrix).items():
        assert 0 <= low <= figures[name] + 1e-9
        assert figures[name] - 1e-9 <= high <= 1
        assert low < high


def test_a_class_without_images_counts_for_nothing():
    assert macro(np.array([[1, 1], [0, 0]])) == {"balanced_accuracy": 0.5, "macro_f1": pytest.approx(2 / 3)}
    nothing = np.zeros((2, 2), np.int64)
    assert macro(nothing) == {"balanced_accuracy": 0.0, "macro_f1": 0.0}
    assert macro_intervals(nothing) == {"balanced_accuracy": [0.0, 1.0], "macro_f1": [0.0, 1.0]}


def test_of_one_class_alone_it_is_about_the_interval_of_a_share():
    low, high = macro_intervals(np.array([[45, 5], [0, 0]]))["balanced_accuracy"]
    assert (low, high) == pytest.approx(wilson(45, 50), abs=0.01)


@pytest.mark.parametrize(("shares", "right"), [((0.5, 0.5), 0.95), ((0.2, 0.3, 0.5), 0.85), ((0.1,) * 10, 0.9)])
def test_they_cover_in_about_95_of_100_evaluations(shares, right):
    """Class counts vary, too, as they do in images that somebody collects."""
    chance, count = np.random.default_rng(0), len(shares)
    truth = np.full((count, count), (1 - right) / (count - 1))
    np.fill_diagonal(truth, right)
    truth[0] = [1.5 * right - 0.5, *[(1.5 - 1.5 * right) / (count - 1)] * (count - 1)]
    cells = truth * np.array(shares)[:, None]
    true = macro(cells * 1e9)
    held = dict.fromkeys(true, 0)
    for _ in range(2000):
        matrix = chance.multinomial(300, cells.ravel()).reshape(count, count)
        for name, (low, high) in macro_intervals(matrix).items():
            held[name] += low <= true[name] <= high
    for name, times in held.items():
        assert 0.93 <= times / 2000 <= 0.97, name


def test_a_class_has_intervals_of_its_own():
    rows = per_class(np.array([[8, 2], [0, 0]]), ("ant", "bee"))
    assert rows["ant"]["recall_interval"] == list(wilson(8, 10))
    assert rows["ant"]["precision_interval"] == list(wilson(8, 8))
    assert rows["bee"]["recall_interval"] is None
    assert "recall_interval" not in per_class(np.eye(2, dtype=int), ("ant", "bee"), intervals=False)["ant"]
    assert list(row_of(rows["ant"])) == ["recall", "precision", "f1"]
