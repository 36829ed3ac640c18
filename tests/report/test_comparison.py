from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from frostline.report.canvas import save
from frostline.report.comparison import comparison


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
    return {"name": name, "accuracy": accuracy, "interval": interval, "history": history, **size}


def names(axes: Any) -> list[str]:
    return [text.get_text().split("\n")[0] for text in axes.get_yticklabels()]


def test_the_best_stands_at_the_top_with_its_interval() -> None:
    intervals = comparison([row("low", 0.8), row("high", 0.9), row("middle", 0.85)]).axes[0]
    assert names(intervals) == ["high", "middle", "low"]
    assert intervals.yaxis_inverted()
    spans = [list(line.get_xdata()) for line in intervals.lines if len(line.get_xdata()) == 2]
    assert spans == [pytest.approx([a - 0.03, a + 0.02]) for a in (0.9, 0.85, 0.8)]
    assert [text.get_text() for text in intervals.texts] == ["0.9000", "0.8500", "0.8000"]


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
        for line, told in zip(axes.lines, rows, strict=True):
            drawn = np.asarray(line.get_ydata())
            assert drawn[np.isfinite(drawn)].tolist() == [float(epoch[column]) for epoch in told["history"]]


def test_solved_heads_have_no_curves() -> None:
    assert len(comparison([row("a", 0.9, epochs=0), row("b", 0.8, epochs=0)]).axes) == 2
    assert len(comparison([row("a", 0.9, epochs=0), row("b", 0.8, epochs=1)]).axes) == 4


def test_a_run_looks_the_same_in_all_panels_and_like_no_other() -> None:
    figure = comparison([row(f"run {i}", 0.9 - 0.01 * i) for i in range(12)])
    looks = [
        [(line.get_color(), line.get_marker()) for line in axes.lines if line.get_marker() != "None"]
        for axes in figure.axes
    ]
    assert all(panel == looks[0] for panel in looks)
    assert len(set(looks[0])) == 12


def test_the_measure_is_named() -> None:
    titles = [axes.get_title(loc="left") for axes in comparison([row("a", 0.5)], measure="mean IoU").axes]
    assert titles == [
        "mean IoU, with its 95 % interval",
        "mean IoU against time",
        "validation loss",
        "validation mean IoU",
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
