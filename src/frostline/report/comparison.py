"""Several runs on the same data, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from frostline.report.canvas import blank, drawing, shown
from frostline.report.colours import FIRST, GREY
from frostline.report.curves import MARKED, by_phase, plot, series, tidy
from frostline.terminal import human_bytes

MARKERS = "osD^vP*Xph<>"
STROKES = ("-", (0, (5, 2)), (0, (1, 1.5)))  # of the first eight lines, the next eight, the next


def comparison(runs: Sequence[Mapping[str, Any]], measure: str = "accuracy") -> Figure:
    """Accuracy with its interval and accuracy against time; and, where any run was trained, both curves over epochs.

    The mapping of each run has `name`, `accuracy` and its `interval` (low, high), `seconds`, `images_per_second`,
    `bytes` of the model, and `history` as in history.csv; what is not known is None or missing. The best run stands at
    the top, and each has one colour and one marker in all panels.
    """
    if not runs:
        return blank("nothing to compare")
    runs = sorted(runs, key=lambda run: -_known(run, "accuracy", -math.inf))
    trained = any(phase.end for run in runs for phase in by_phase(run.get("history") or ()))
    upper = 1.5 + 0.36 * len(runs)
    with drawing():
        figure = Figure((10.5, upper + (3.4 if trained else 0)), layout="constrained")
        cells = figure.subplots(1 + trained, 2, height_ratios=(upper, 3.4)[: 1 + trained], squeeze=False)
        _intervals(cells[0, 0], runs, measure)
        _times(cells[0, 1], runs, measure)
        if trained:
            _curves(cells[1, 0], runs, "valid_loss", "validation loss")
            _curves(cells[1, 1], runs, "valid_accuracy", f"validation {measure}")
        return figure


def _known(run: Mapping[str, Any], key: str, otherwise: float = math.nan) -> float:
    """A number of a run, or what stands for one that is missing."""
    value = run.get(key)
    return float(value) if value is not None and math.isfinite(value) else otherwise


def _look(number: int) -> dict[str, Any]:
    """The colour and the marker of a run, and of its lines the stroke."""
    colours = len(FIRST)
    stroke = STROKES[number // colours % len(STROKES)]
    return {"color": f"#{FIRST[number % colours]}", "marker": MARKERS[number % len(MARKERS)], "linestyle": stroke}


def _intervals(axes: Axes, runs: Sequence[Mapping[str, Any]], measure: str) -> None:
    for i, run in enumerate(runs):
        accuracy, look = _known(run, "accuracy"), _look(i)
        if run.get("interval"):
            axes.plot(run["interval"], (i, i), color=look["color"], linewidth=2.2, alpha=0.45, solid_capstyle="round")
        if math.isfinite(accuracy):
            axes.plot([accuracy], [i], markersize=6, **look)
            where: dict[str, Any] = {"xy": (accuracy, i), "xytext": (0, 5), "textcoords": "offset points"}
            axes.annotate(f"{accuracy:.4f}", ha="center", fontsize=7, **where)
        else:
            axes.text(0.02, i, "not measured", transform=axes.get_yaxis_transform(), va="center", color=GREY)
    axes.set_yticks(range(len(runs)), [f"{shown(run['name'], 36)}\n{_facts(run)}" for run in runs], fontsize=7)
    axes.set_ylim(len(runs) - 0.4, -0.7)
    axes.margins(x=0.1)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set(title=f"{shown(measure)}, with its 95 % interval")


def _facts(run: Mapping[str, Any]) -> str:
    known = {key: _known(run, key) for key in ("bytes", "images_per_second", "seconds")}
    texts = (human_bytes(known["bytes"]), f"{known['images_per_second']:.0f} images/s", f"{known['seconds']:.1f} s")
    return " · ".join(text for text, value in zip(texts, known.values(), strict=True) if math.isfinite(value))


def _times(axes: Axes, runs: Sequence[Mapping[str, Any]], measure: str) -> None:
    for i, run in enumerate(runs):
        axes.plot([_known(run, "seconds")], [_known(run, "accuracy")], markersize=7, **_look(i))
    seconds = [value for run in runs if (value := _known(run, "seconds")) > 0]
    if seconds:
        axes.set_xscale("log")
        axes.set_xlim(min(seconds) / 1.6, max(seconds) * 1.6)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5) if max(seconds) < 100 * min(seconds) else (1,)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(y=0.15)
    axes.set(title=f"{shown(measure)} against time", xlabel="seconds")


def _curves(axes: Axes, runs: Sequence[Mapping[str, Any]], column: str, title: str) -> None:
    for i, run in enumerate(runs):
        x, y = series(by_phase(run.get("history") or ()), column)
        plot(axes, x, y, run["name"], every_dot=len(x) <= MARKED, **_look(i))
    tidy(axes, whole=column != "valid_loss")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set(title=shown(title), xlabel="epoch")
