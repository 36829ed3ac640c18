from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score

from frostline.tasks import classwise
from frostline.tasks.classwise import macro, macro_intervals, per_class, row_of
from frostline.tasks.counts import Counts, counted, counts_of
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
    ours = macro(counts_of(matrix))
    assert ours["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(true, predicted))
    assert ours["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro", zero_division=0))


@given(matrices)
def test_the_intervals_hold_their_figures(matrix):
    figures = macro(counts_of(matrix))
    for name, (low, high) in macro_intervals(counts_of(matrix)).items():
        assert 0 <= low <= figures[name] + 1e-9
        assert figures[name] - 1e-9 <= high <= 1
        assert low < high


def test_a_class_without_images_counts_for_nothing():
    assert macro(counts_of(np.array([[1, 1], [0, 0]]))) == {"balanced_accuracy": 0.5, "macro_f1": pytest.approx(2 / 3)}
    nothing = counts_of(np.zeros((2, 2), np.int64))
    assert macro(nothing) == {"balanced_accuracy": 0.0, "macro_f1": 0.0}
    assert macro_intervals(nothing) == {"balanced_accuracy": [0.0, 1.0], "macro_f1": [0.0, 1.0]}


def test_of_one_class_alone_it_is_about_the_interval_of_a_share():
    low, high = macro_intervals(counts_of(np.array([[45, 5], [0, 0]])))["balanced_accuracy"]
    assert (low, high) == pytest.approx(wilson(45, 50), abs=0.01)


@pytest.mark.parametrize(("shares", "right"), [((0.5, 0.5), 0.95), ((0.2, 0.3, 0.5), 0.85), ((0.1,) * 10, 0.9)])
def test_they_cover_in_about_95_of_100_evaluations(shares, right):
    """Class counts vary, too, as they do in images that somebody collects."""
    chance, count = np.random.default_rng(0), len(shares)
    truth = np.full((count, count), (1 - right) / (count - 1))
    np.fill_diagonal(truth, right)
    truth[0] = [1.5 * right - 0.5, *[(1.5 - 1.5 * right) / (count - 1)] * (count - 1)]
    cells = truth * np.array(shares)[:, None]
    true = macro(counts_of(cells * 1e9))
    held = dict.fromkeys(true, 0)
    for _ in range(2000):
        matrix = chance.multinomial(300, cells.ravel()).reshape(count, count)
        for name, (low, high) in macro_intervals(counts_of(matrix)).items():
            held[name] += low <= true[name] <= high
    for name, times in held.items():
        assert 0.93 <= times / 2000 <= 0.97, name


def whole(counts: Counts, name: str) -> float:
    """The variance of a figure by its influence in every cell of the matrix, as the delta method is written down."""
    rows = counts.matrix()[counts.of_class > 0].astype(float)
    own, n = np.eye(counts.classes)[counts.of_class > 0], rows.sum()
    rate = (counts.right.sum() + 1) / (n + 2)
    rows += np.where(own, rate, (1 - rate) / (counts.classes - 1))
    hits, of_class, predicted = (rows * own).sum(1), rows.sum(1), rows.sum(0)
    both = of_class + own @ predicted
    f1s, recalls = 2 * hits / both, hits / of_class
    influences = {
        "balanced_accuracy": (own - recalls[:, None]) / of_class[:, None],
        "macro_f1": 2 * own / both[:, None] - (f1s / both)[:, None] - own.T @ (f1s / both),
    }
    return float((rows * influences[name] ** 2).sum() / len(rows) ** 2 * rows.sum() / n)


@given(matrices.filter(np.any), st.sampled_from(["balanced_accuracy", "macro_f1"]))
def test_the_cells_that_count_nothing_are_in_the_variance(matrix, name):
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classwise, "influence_interval", lambda *given: found.append(given[2]) or [0.0, 1.0])
        macro_intervals(counts_of(matrix))
    assert found[["balanced_accuracy", "macro_f1"].index(name)] == pytest.approx(whole(counts_of(matrix), name))


def test_many_classes_take_no_square_matrix():
    """Of 20,000 it would be 3.2 GB, and the influences on it four times that."""
    chance, classes = np.random.default_rng(0), 20_000
    true = chance.integers(0, classes, 5_000)
    counts = counted(true, np.where(chance.random(5_000) < 0.5, true, chance.integers(0, classes, 5_000)), classes)
    tracemalloc.start()
    figures = {**macro(counts), "n": len(per_class(counts, tuple(map(str, range(classes)))))}
    intervals = macro_intervals(counts)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 100e6
    assert figures["n"] == classes
    assert intervals["macro_f1"][0] < figures["macro_f1"] < intervals["macro_f1"][1]


def test_a_class_has_intervals_of_its_own():
    rows = per_class(counts_of(np.array([[8, 2], [0, 0]])), ("ant", "bee"))
    assert rows["ant"]["recall_interval"] == list(wilson(8, 10))
    assert rows["ant"]["precision_interval"] == list(wilson(8, 8))
    assert rows["bee"]["recall_interval"] is None
    assert "recall_interval" not in per_class(counts_of(np.eye(2, dtype=int)), ("ant", "bee"), intervals=False)["ant"]
    assert list(row_of(rows["ant"])) == ["recall", "precision", "f1"]
