from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from frostline.report.canvas import save
from frostline.report.comparison import comparison
from frostline.report.curves import PALE


def row(name: str, accuracy: float, epochs: int = 3, seconds: float = 6.4) -> dict[str, Any]:
    history = [
        {
            "phase": "1",
            "frostline": "head",
            "epoch": str(epoch),
            "valid_loss": str(0.5 / (epoch + 1)),
            "valid_accuracy": str(accuracy - 0.01 * (epochs - epoch)),
        }
        for epoch in range(epochs + 1)
    ]
    interval = [accuracy - 0.03, min(1.0, accuracy + 0.02)]
    size = {"loss": 0.1, "seconds": seconds, "images_per_second": 210.0, "bytes": 13_000_000}
    return {"name": name, "accuracy": accuracy, "interval": interval, "history": history, "kept": [epochs], **size}


def curves_of(axes: Any) -> list[Any]:
    return [line for line in axes.lines if line.get_label() != "kept"]


def names(axes: Any) -> list[str]:
    return [text.get_text().split("\n")[0] for text in axes.get_yticklabels()]


def test_the_best_stands_at_the_top_with_its_interval() -> None:
    intervals = comparison([row("low", 0.8), row("high", 0.9), row("middle", 0.85)]).axes[0]
    assert names(intervals) == ["high", "middle", "low"]
    assert intervals.yaxis_inverted()
    spans = [list(line.get_xdata()) for line in intervals.lines if len(line.get_xdata()) == 2]
    assert spans == [pytest.approx([a - 0.03, a + 0.02]) for a in (0.9, 0.85, 0.8)]
    assert [text.get_text() for text in intervals.texts] == ["0.9000", "0.8500", "0.8000"]


def test_no_value_is_written_over_a_marker_or_a_line(tmp_path) -> None:
    figure = comparison([row(f"run {i}", 0.999 - 0.001 * i) for i in range(8)])
    save(figure, tmp_path, "comparison")
    for axes in figure.axes[:2]:
        inside = axes.get_window_extent()
        assert all(text.get_window_extent().x0 >= inside.x1 for text in axes.texts)


def test_the_title_and_the_legend_say_what_and_who() -> None:
    figure = comparison([row("a", 0.8), row("b $", 0.9)], title="ants · validation, n = 12")
    assert figure.get_suptitle() == "ants · validation, n = 12"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["b $", "a", "kept"]
    solved = comparison([row("a", 0.9, epochs=0), row("b", 0.8, epochs=0)])
    assert [text.get_text() for text in solved.legends[0].get_texts()] == ["a", "b"]


def test_what_was_kept_has_a_ring_and_what_was_undone_is_pale() -> None:
    one = row("a", 0.9)
    again = [{**epoch, "phase": "2"} for epoch in one["history"]]
    figure = comparison([{**one, "history": [*one["history"], *again], "kept": [2, None]}])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "kept", "undone"]
    for axes, column in zip(figure.axes[2:], ("valid_loss", "valid_accuracy"), strict=True):
        (ring,) = [line for line in axes.lines if line.get_label() == "kept"]
        assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([2], [float(one["history"][2][column])])
        assert [line.get_alpha() for line in curves_of(axes)] == [1, PALE]


@pytest.mark.parametrize("epochs", [2, 40])
def test_curves_that_coincide_are_told_apart(epochs: int) -> None:
    rows = [row(name, 0.9, epochs=epochs) for name in "abc"]
    for axes in comparison(rows).axes[2:]:
        lines = curves_of(axes)
        widths = [line.get_linewidth() for line in lines]
        assert widths == sorted(widths, reverse=True)  # the last to be drawn is the thinnest
        assert len(set(widths)) == len({line.get_zorder() for line in lines}) == 3
        starts = np.array([np.asarray(line.get_xdata())[0] for line in lines])
        assert np.all(np.diff(starts) > 0)
        assert 0 < starts[-1] - starts[0] <= 0.6
        assert starts.mean() == pytest.approx(0)


@pytest.mark.parametrize(("key", "name"), [("mean_iou", "mean IoU"), ("mean_ap", "mean AP")])
def test_what_a_task_is_judged_by_is_compared(key: str, name: str) -> None:
    rows = []
    for i, each in enumerate((row("low", 0.9), row("high", 0.8))):
        history = [{**epoch, f"valid_{key}": 0.1 * i} for epoch in each["history"]]
        rows.append({**each, key: 0.3 + 0.1 * i, "intervals": {key: [0.2, 0.5]}, "history": history})
    figure = comparison(rows, (key, name))
    assert names(figure.axes[0]) == ["high", "low"]
    assert [list(line.get_xdata()) for line in figure.axes[0].lines if len(line.get_xdata()) == 2] == [[0.2, 0.5]] * 2
    assert figure.axes[3].get_title(loc="left") == f"validation {name}"
    assert np.nanmax(curves_of(figure.axes[3])[0].get_ydata()) == pytest.approx(0.1)


def test_each_row_says_size_speed_and_time() -> None:
    (label,) = comparison([row("a", 0.8)]).axes[0].get_yticklabels()
    assert label.get_text() == "a\n13 MB · 210 images/s · 6.4 s"


def test_accuracy_is_drawn_against_time() -> None:
    times = comparison([row("a", 0.8, seconds=5), row("b", 0.9, seconds=50)]).axes[1]
    assert times.get_xscale() == "log"
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in times.lines]
    assert points == [(50, 0.9), (5, 0.8)]


def test_the_curves_are_those_of_the_histories() -> None:
    rows = [row("a", 0.9, epochs=4), row("b", 0.8, epochs=2)]
    losses, accuracies = comparison(rows).axes[2:]
    for axes, column in ((losses, "valid_loss"), (accuracies, "valid_accuracy")):
        for line, told in zip(curves_of(axes), rows, strict=True):
            drawn = np.asarray(line.get_ydata())
            assert drawn[np.isfinite(drawn)].tolist() == [float(epoch[column]) for epoch in told["history"]]


def test_solved_heads_have_no_curves() -> None:
    assert len(comparison([row("a", 0.9, epochs=0), row("b", 0.8, epochs=0)]).axes) == 2
    assert len(comparison([row("a", 0.9, epochs=0), row("b", 0.8, epochs=1)]).axes) == 4


def test_a_run_looks_the_same_in_all_panels_and_like_no_other() -> None:
    figure = comparison([row(f"run {i}", 0.9 - 0.01 * i) for i in range(12)])
    looks = [
        [(line.get_color(), line.get_marker()) for line in curves_of(axes) if line.get_marker() != "None"]
        for axes in figure.axes
    ]
    assert all(panel == looks[0] for panel in looks)
    assert len(set(looks[0])) == 12


def test_the_measure_is_named() -> None:
    titles = [axes.get_title(loc="left") for axes in comparison([row("a", 0.5)], ("accuracy", "share right")).axes]
    assert titles == [
        "share right, with its 95 % interval",
        "share right against time",
        "validation loss",
        "validation share right",
    ]


def test_a_run_that_failed_is_last_and_said(tmp_path) -> None:
    nothing = {"name": "failed", **dict.fromkeys(("accuracy", "interval", "seconds", "images_per_second", "bytes"))}
    figure = comparison([{**nothing, "history": []}, row("good", 0.9)])
    assert names(figure.axes[0]) == ["good", "failed"]
    assert figure.axes[0].texts[-1].get_text() == "not measured"
    save(figure, tmp_path, "comparison")
    save(comparison([{"name": "only", "accuracy": float("nan")}]), tmp_path, "nothing")


@pytest.mark.parametrize("count", [1, 12, 30])
def test_any_number_of_rows_gives_a_picture(count: int, tmp_path) -> None:
    rows = [row(f"timm:金_$x${i}" * 5, 0.5 + 0.01 * i, seconds=1.5**i) for i in range(count)]
    save(comparison(rows), tmp_path, "comparison")


def test_nothing_to_compare_is_said() -> None:
    assert comparison([]).texts[0].get_text() == "nothing to compare"
