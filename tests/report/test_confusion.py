from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from frostline.report import confusion as drawn
from frostline.report.canvas import save
from frostline.report.confusion import COUNTED, confusion
from frostline.tasks.counts import counts_of

matrices = st.integers(1, 12).flatmap(lambda n: arrays(np.int64, (n, n), elements=st.integers(0, 9999)))


def names(count: int) -> list[str]:
    return [f"class {i}" for i in range(count)]


def some(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 5, (count, count)) + 20 * np.eye(count, dtype=np.int64)


@settings(max_examples=8, deadline=None)
@given(matrices.filter(np.any))
def test_cells_hold_the_counts_and_colours_the_shares(matrix: np.ndarray) -> None:
    axes = confusion(counts_of(matrix), names(len(matrix))).axes[0]
    written = np.zeros_like(matrix)
    for text in axes.texts:
        column, row = text.get_position()
        written[int(row), int(column)] = int(text.get_text())
    assert np.array_equal(written, matrix)
    shares = np.asarray(axes.images[0].get_array())
    sums = shares.sum(1)
    assert np.allclose(sums[matrix.any(1)], 1)
    assert not sums[~matrix.any(1)].any()


def test_true_is_up_and_predicted_across() -> None:
    figure = confusion(counts_of(np.array([[3, 1], [0, 4]])), ["ants", "bees"])
    axes = figure.axes[0]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "predicted")
    assert [text.get_text() for text in axes.get_yticklabels()] == ["ants", "bees"]
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {
        ((0, 0), "3"),
        ((1, 0), "1"),
        ((1, 1), "4"),
    }
    assert axes.get_title(loc="left") == "Accuracy 0.875 (n = 8)"


def test_the_title_says_what_was_measured_on_how_many() -> None:
    counts = counts_of(np.array([[11, 0], [1, 0]]))
    title = confusion(counts, ["ants", "bees"], "Validation accuracy").axes[0].get_title(loc="left")
    assert title == "Validation accuracy 0.917 (n = 12)"
    pixels = confusion(counts, ["ants", "bees"], "Test pixel accuracy", 3).axes[0].get_title(loc="left")
    assert pixels == "Test pixel accuracy 0.917\nn = 3 images, cells count pixels"


def test_many_classes_are_named_sparsely_and_their_confusions_listed() -> None:
    matrix = some(100)
    matrix[7, 3] = 999
    axes = confusion(counts_of(matrix), names(100)).axes[0]
    assert not axes.texts
    assert 10 <= len(axes.get_yticklabels()) <= 25
    (text,) = axes.child_axes[0].texts
    assert text.get_text().startswith("999 ×  class 7\n→ class 3")


def test_of_more_classes_than_a_screen_has_pixels_neighbours_share_a_cell(monkeypatch) -> None:
    monkeypatch.setattr(drawn, "CELLS", 30)
    counts = counts_of(some(100))
    axes = confusion(counts, names(100)).axes[0]
    shares = np.asarray(axes.images[0].get_array())
    assert shares.shape == (25, 25)
    np.testing.assert_allclose(shares.sum(1), 1)
    assert axes.images[0].get_extent() == [-0.5, 99.5, 99.5, -0.5]
    assert axes.get_yticklabels()[1].get_text() == "class 5"


def test_large_counts_are_written_short() -> None:
    (text,) = confusion(counts_of(np.array([[12_345_678]])), ["all"]).axes[0].texts
    assert text.get_text() == "12.3 M"


@pytest.mark.parametrize("count", [1, COUNTED, COUNTED + 1, 400])
def test_any_number_of_classes_gives_a_picture(count: int, tmp_path) -> None:
    save(confusion(counts_of(some(count)), [f"金 $x_{i} " * 9 for i in range(count)]), tmp_path, "confusion")


def test_nothing_measured_is_said() -> None:
    figure = confusion(counts_of(np.zeros((3, 3), np.int64)), names(3))
    assert not figure.axes
    assert "nothing was measured" in figure.texts[0].get_text()


def test_nothing_confused_is_said() -> None:
    axes = confusion(counts_of(np.eye(40, dtype=np.int64)), names(40)).axes[0]
    assert axes.child_axes[0].get_title(loc="left") == "nothing was confused"
