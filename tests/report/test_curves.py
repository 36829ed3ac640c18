from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from frostline.report.canvas import save
from frostline.report.colours import TEST, TRAIN, VALID
from frostline.report.curves import PALE, by_phase, curves, number, series

COLUMNS = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy")
cells = st.one_of(st.floats(0, 1).map(str), st.sampled_from(["", "nan", "inf", "-inf"]))


def history_of(*plan: tuple[str, int]) -> list[dict[str, str]]:
    """A history whose every number is different."""
    rows: list[dict[str, str]] = []
    for phase, (frostline, epochs) in enumerate(plan, 1):
        for epoch in range(epochs + 1):
            values = {column: str(0.2 + 0.01 * len(rows) + 0.001 * i) for i, column in enumerate(COLUMNS)}
            if epoch == 0:
                values.update(train_loss="", train_accuracy="")
            start = {"phase": str(phase), "frostline": frostline, "epoch": str(epoch), "lr": "", "seconds": "1"}
            rows.append({**start, **values})
    return rows


@st.composite
def histories(draw: Any) -> list[dict[str, str]]:
    plan = draw(st.lists(st.tuples(st.sampled_from(["head", "layer4", "日本 $x$"]), st.integers(0, 5)), max_size=4))
    return [{**row, **{column: draw(cells) for column in COLUMNS}} for row in history_of(*plan)]


def measured(*accuracies: float | None) -> list[dict[str, float] | None]:
    return [None if value is None else {"accuracy": value, "monitored_loss": 1 - value} for value in accuracies]


def points(figure: Figure, panel: int, label: str) -> list[tuple[float, float]]:
    line = next(line for line in figure.axes[panel].lines if line.get_label() == label)
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True) if np.isfinite(b)]


def names_above(figure: Figure) -> list[str]:
    top = figure.axes[0].child_axes[0]
    return [text.get_text() for text in top.get_xticklabels()]


@settings(max_examples=12, deadline=None)
@given(histories())
def test_what_is_drawn_is_what_the_history_says(history: list[dict[str, str]]) -> None:
    figure = curves(history)
    for panel, column in enumerate(("loss", "accuracy")):
        for split in ("train", "valid"):
            told = [float(row[f"{split}_{column}"] or "nan") for row in history]
            drawn = [y for _, y in points(figure, panel, split)]
            assert drawn == [value for value in told if math.isfinite(value)]


@given(histories())
def test_epochs_are_counted_through_all_phases(history: list[dict[str, str]]) -> None:
    phases = by_phase(history)
    assert [row for phase in phases for row in phase.epochs] == history
    for before, after in itertools.pairwise(phases):
        assert after.start == before.end
    x, y = series(phases, "valid_loss")
    assert len(x) == len(y) == len(history) + len(phases)
    assert np.all(np.diff(x) >= 0)


def test_lines_break_between_phases() -> None:
    x, y = series(by_phase(history_of(("head", 0), ("layer4", 2))), "valid_loss")
    assert x.tolist() == [0, 0, 0, 1, 2, 2]
    assert np.isnan(y).tolist() == [False, True, False, False, False, True]


def test_two_panels_with_always_the_same_colours() -> None:
    figure = curves(history_of(("head", 0), ("layer4", 3)), [0, 3], measured(0.5, 0.6))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "accuracy"]
    colours = {line.get_label(): line.get_color() for line in figure.axes[1].lines}
    assert {"train": TRAIN, "valid": VALID, "test": TEST}.items() <= colours.items()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["train", "valid", "kept", "test"]


@pytest.mark.parametrize(("column", "name"), [("mean_iou", "mean IoU"), ("mean_ap", "mean AP")])
def test_the_second_panel_is_what_the_task_is_judged_by(column: str, name: str) -> None:
    history = [{**row, f"valid_{column}": str(0.1 * i)} for i, row in enumerate(history_of(("head", 4)))]
    tests = [{"accuracy": 0.9, column: 0.35, "monitored_loss": 0.2}]
    figure = curves(history, [4], tests, measure=(column, name))
    assert figure.axes[1].get_title(loc="left") == name
    assert points(figure, 1, "valid") == [(i, pytest.approx(0.1 * i)) for i in range(5)]
    assert points(figure, 1, "test") == [(4, 0.35)]
    assert points(figure, 0, "test") == [(4, 0.2)]


def test_the_title_says_of_what() -> None:
    title = "ants $ · timm:x · validation, n = 12"
    assert curves(history_of(("head", 3)), [3], title=title).get_suptitle() == title
    long = curves(history_of(("head", 0), ("a" * 30, 1), ("input", 40)), [0, 1, 40], title="t" * 300)
    first, second = long.get_suptitle().split("\n")
    assert len(first) == 110
    assert second.startswith("1\u00a0head")


def test_a_ring_is_at_the_epoch_that_was_kept() -> None:
    """Stumble 10."""
    history = history_of(("head", 0), ("layer4", 3), ("layer3", 2))
    figure = curves(history, [0, 2, None])
    for panel, column in enumerate(("valid_loss", "valid_accuracy")):
        assert points(figure, panel, "kept") == [(0, float(history[0][column])), (2, float(history[3][column]))]
    assert "kept" not in [line.get_label() for line in curves(history).axes[0].lines]
    nan = [{**row, "valid_loss": "nan"} for row in history]
    assert points(curves(nan, [0, 2, None]), 1, "kept")
    assert "kept" not in [line.get_label() for line in curves(nan, [0, 2, None]).axes[0].lines]


def test_what_was_measured_on_test_images_stands_at_the_epoch_that_was_kept() -> None:
    history = history_of(("head", 0), ("layer4", 3), ("layer3", 2), ("stem", 2))
    figure = curves(history, [0, 2, None, 1], measured(0.5, None, 0.6, 0.7))
    assert points(figure, 1, "test") == [(0, 0.5), (6, 0.7)]
    assert points(figure, 0, "test") == [(0, 0.5), (6, pytest.approx(0.3))]
    nothing = curves(history_of(("head", 2)), [2], [None])
    assert "test" not in [line.get_label() for axes in nothing.axes for line in axes.lines]


def test_phases_are_marked_where_they_begin_and_named_above() -> None:
    figure = curves(history_of(("head", 0), ("layer4", 5), ("layer3", 5)))
    for axes in figure.axes:
        marked = [line.get_xdata() for line in axes.lines if line.get_label().startswith("_")]
        assert [list(x) for x in marked] == [[0, 0], [5, 5]]
    assert names_above(figure) == ["head", "layer4", "layer3"]
    assert figure.get_suptitle() == ""


def test_names_that_do_not_fit_become_numbers_with_a_key() -> None:
    figure = curves(history_of(("head", 0), ("features.denseblock4.denselayer16", 1), ("input", 30)))
    assert names_above(figure) == ["1", "2", "3"]
    assert figure.get_suptitle().split("   ")[0] == "1\u00a0head"
    assert figure.get_suptitle().endswith("3\u00a0input")


def test_what_did_not_pay_is_named_so() -> None:
    history = history_of(("head", 0), ("layer4", 5), ("layer3", 5))
    figure = curves(history, [0, 4, None])
    assert names_above(figure) == ["head", "layer4", "layer3 (undone)"]
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "undone"
    for axes in figure.axes:
        (band,) = axes.patches
        assert (band.get_x(), band.get_x() + band.get_width()) == (5, 10)
        pale = {line.get_label(): line.get_alpha() for line in axes.lines if "undone" in line.get_label()}
        assert pale == {"train, undone": PALE, "valid, undone": PALE}
    told = [float(row["valid_loss"]) for row in history]
    assert [y for _, y in points(figure, 0, "valid")] == told[:7]
    assert points(figure, 0, "valid, undone") == [(5 + i, value) for i, value in enumerate(told[7:])]


def test_a_fit_of_which_nothing_was_kept_but_the_head_has_all_in_its_legend() -> None:
    figure = curves(history_of(("head", 0), ("layer4", 3)), [0, None])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["train", "valid", "kept", "undone"]


def test_a_steep_loss_is_drawn_on_a_logarithmic_axis() -> None:
    gentle = history_of(("head", 4))
    assert curves(gentle).axes[0].get_yscale() == "linear"
    steep = [*gentle[:-1], {**gentle[-1], "valid_loss": "0.0001"}]
    assert curves(steep).axes[0].get_yscale() == "log"
    assert curves([*gentle[:-1], {**gentle[-1], "valid_loss": "0.0"}]).axes[0].get_yscale() == "linear"


def test_no_accuracy_is_above_1() -> None:
    history = [{**row, "valid_accuracy": "1.0"} for row in history_of(("head", 3))]
    low, high = curves(history).axes[1].get_ylim()
    assert 1 <= high <= 1 + 0.05 * (1 - low)


@pytest.mark.parametrize(
    "history",
    [
        [],
        history_of(("head", 0), ("head", 0)),
        [{**row, **dict.fromkeys(COLUMNS, "nan")} for row in history_of(("head", 1))],
        history_of(("head", 1), ("日本 $x$", 200)),
    ],
    ids=["empty", "solved twice", "nothing finite", "long"],
)
def test_any_history_gives_a_figure(history: list[dict[str, str]], tmp_path) -> None:
    figure = curves(history)
    save(figure, tmp_path, "curves", ("png", "svg"))
    predicted = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert ("nothing was measured" in predicted) == (not any(number(row["valid_loss"]) > 0 for row in history))


@pytest.mark.parametrize("cell", ["", "nan", "inf", "-inf", "none", None])
def test_what_is_no_finite_number_is_nan(cell: Any) -> None:
    assert math.isnan(number(cell))
