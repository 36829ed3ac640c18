"""Several runs on the same data, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from frostline.report.canvas import blank, drawing, shown
from frostline.report.colours import FIRST, GREY, INK
from frostline.report.curves import PALE, by_phase, draw, places, tidy
from frostline.terminal import human_bytes

RING: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 11, "label": "kept"}
RING |= {"markerfacecolor": "none", "markeredgecolor": INK}
WIDER = 3  # the first lines, drawn below the others; each is wider than the one above it
ASIDE = 0.1  # horizontal offset of the lines: this share of the epochs, at most 0.6 of one
MARKERS = "osD^vP*Xph<>"
STROKES = ("-", (0, (5, 2)), (0, (1, 1.5)))  # for the first eight lines, the next eight, and the rest


def comparison(
    runs: Sequence[Mapping[str, Any]], measure: tuple[str, str] = ("accuracy", "accuracy"), title: str = ""
) -> Figure:
    """The metric with its interval, and against time; if any run was trained, also its curves over epochs.

    Each run has `name`, the metric and its `interval` (low, high), `seconds`, `images_per_second`, `bytes` of the
    model, `history` as in history.csv, and `kept`: the kept epoch of each phase, or None if it was undone. Unknown
    values are None or missing. The best run is at the top. A run has the same colour and marker in all panels. Curves
    are offset a little, and the first ones are the widest, so that none hides another. A ring marks a kept epoch;
    undone phases are pale.

    measure: key and name of the metric: ("mean_iou", "mean IoU"). title: the metric and the images.
    """
    if not runs:
        return blank("nothing to compare")
    key, name = measure
    runs = sorted(runs, key=lambda run: -_known(run, key, -math.inf))
    trained = any(phase.end for run in runs for phase in by_phase(run.get("history") or ()))
    upper = 1.5 + 0.36 * len(runs)
    with drawing():
        figure = Figure((10.5, upper + 0.6 + (3.4 if trained else 0)), layout="constrained")
        cells = figure.subplots(1 + trained, 2, height_ratios=(upper, 3.4)[: 1 + trained], squeeze=False)
        _intervals(cells[0, 0], runs, measure)
        _times(cells[0, 1], runs, measure)
        if trained:
            _curves(cells[1, 0], runs, "valid_loss", "validation loss")
            _curves(cells[1, 1], runs, f"valid_{key}", f"validation {name}")
        figure.suptitle(shown(title, 110), x=0.01, ha="left", fontsize=9)
        _legend(figure, runs, trained=trained)
        return figure


def _known(run: Mapping[str, Any], key: str, otherwise: float = math.nan) -> float:
    """A number of a run, or `otherwise` if it is missing."""
    value = run.get(key)
    return float(value) if value is not None and math.isfinite(value) else otherwise


def _look(number: int) -> dict[str, Any]:
    """The colour, marker and line style of a run."""
    colours = len(FIRST)
    stroke = STROKES[number // colours % len(STROKES)]
    return {"color": f"#{FIRST[number % colours]}", "marker": MARKERS[number % len(MARKERS)], "linestyle": stroke}


def _intervals(axes: Axes, runs: Sequence[Mapping[str, Any]], measure: tuple[str, str]) -> None:
    """An interval per run, with its value in a column on the right."""
    key, name = measure
    column: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 7.5}
    for i, run in enumerate(runs):
        value, look = _known(run, key), _look(i)
        interval = run.get("interval") if key == "accuracy" else (run.get("intervals") or {}).get(key)
        if interval:
            axes.plot(interval, (i, i), color=look["color"], linewidth=2.2, alpha=0.45, solid_capstyle="round")
        if math.isfinite(value):
            axes.plot([value], [i], markersize=6, **look)
            axes.text(1.02, i, f"{value:.4f}", **column)
        else:
            axes.text(0.02, i, "not measured", color=GREY, **column)
    axes.set_yticks(range(len(runs)), [f"{shown(run['name'], 36)}\n{_facts(run)}" for run in runs], fontsize=7)
    axes.set_ylim(len(runs) - 0.4, -0.6)
    axes.margins(x=0.1)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set(title=f"{shown(name)}, with its 95 % interval")


def _facts(run: Mapping[str, Any]) -> str:
    known = {key: _known(run, key) for key in ("bytes", "images_per_second", "seconds")}
    texts = (human_bytes(known["bytes"]), f"{known['images_per_second']:.0f} images/s", f"{known['seconds']:.1f} s")
    return " · ".join(text for text, value in zip(texts, known.values(), strict=True) if math.isfinite(value))


def _times(axes: Axes, runs: Sequence[Mapping[str, Any]], measure: tuple[str, str]) -> None:
    key, name = measure
    for i, run in enumerate(runs):
        size = 7 + 3 * sum(_alike(run, other, key) for other in runs[i + 1 :])  # equal runs drawn later leave a rim
        axes.plot([_known(run, "seconds")], [_known(run, key)], markersize=size, markeredgecolor="white", **_look(i))
    seconds = [value for run in runs if (value := _known(run, "seconds")) > 0]
    if seconds:
        axes.set_xscale("log")
        axes.set_xlim(min(seconds) / 1.6, max(seconds) * 1.6)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5) if max(seconds) < 100 * min(seconds) else (1,)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(y=0.15)
    axes.set(title=f"{shown(name)} against time", xlabel="seconds")


def _alike(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> bool:
    """Whether two runs are drawn at visibly the same point."""
    near = math.isclose(_known(one, "seconds"), _known(other, "seconds"), rel_tol=0.15)
    return near and math.isclose(_known(one, key), _known(other, key), abs_tol=0.01)


def _curves(axes: Axes, runs: Sequence[Mapping[str, Any]], column: str, title: str) -> None:
    """A line per run, offset a little and drawn over wider ones, so that none hides another."""
    histories = [by_phase(run.get("history") or ()) for run in runs]
    last = max(phase.end for phases in histories for phase in phases)
    step = min(ASIDE * last, 0.6) / max(1, len(runs) - 1)
    for i, (run, phases) in enumerate(zip(runs, histories, strict=True)):
        kept, aside = run.get("kept") or (), step * (i - (len(runs) - 1) / 2)
        undone = {number for number, epoch in enumerate(kept) if epoch is None}
        below = min(len(runs) - 1 - i, WIDER)
        look = {**_look(i), "linewidth": 1.3 + below, "markersize": 4 + below}
        draw(axes, phases, undone, column, run["name"], aside, zorder=2 + i / len(runs), **look)
        x, y = places(phases, kept, column)
        axes.plot([epoch + aside for epoch in x], y, zorder=4, **RING)
    tidy(axes, whole=column != "valid_loss")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set(title=shown(title), xlabel="epoch")


def _legend(figure: Figure, runs: Sequence[Mapping[str, Any]], *, trained: bool) -> None:
    """The colour and marker of each run, for all panels, and the ring if there is one."""
    entries = [Line2D([], [], label=shown(run["name"], 36), **_look(i)) for i, run in enumerate(runs)]
    kept = [epoch for run in runs for epoch in run.get("kept") or ()] if trained else []
    if any(epoch is not None for epoch in kept):
        entries.append(Line2D([], [], **RING))
    if None in kept:
        entries.append(Line2D([], [], color=INK, alpha=PALE, linewidth=3, label="undone"))
    figure.legend(handles=entries, loc="outside lower center", ncols=min(4, len(entries)), handlelength=3)
