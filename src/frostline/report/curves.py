"""The loss and the metric of a run, over the epochs of all its phases."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from frostline.report.canvas import drawing, shown
from frostline.report.colours import GREY, INK, LINE, TEST, TRAIN, VALID

History = Sequence[Mapping[str, Any]]
Test = Mapping[str, Any] | None

MARKED = 60  # with at most this many epochs, each one has a dot
STEEP = 50  # a loss that falls by more than this factor gets a logarithmic axis
PALE = 0.35  # opacity of the lines of undone phases
LETTER = 0.016  # approximate width of a letter of a phase name, as a share of the panel's width


@dataclass(frozen=True)
class Phase:
    """The epochs of one phase. `start` counts the epochs trained before it."""

    frostline: str
    start: int
    epochs: History

    @property
    def end(self) -> int:
        return self.start + max(int(epoch["epoch"]) for epoch in self.epochs)


def curves(
    history: History,
    kept: Sequence[int | None] = (),
    tests: Sequence[Test] = (),
    *,
    measure: tuple[str, str] = ("accuracy", "accuracy"),
    title: str = "",
) -> Figure:
    """Two panels, the loss and the metric, over the epochs of all phases; the frostlines are named above.

    history: epochs as in history.csv; empty and non-finite values are left out.
    kept: the kept epoch of each phase, which gets a ring; None if the phase was undone, which is drawn pale on grey.
        May be shorter than the plan.
    tests: the test results of each phase, `monitored_loss` (the loss of the curves) and the metric; None if it was not
        tested. They are drawn at the kept epoch.
    measure: column in history.csv and name of the metric: ("mean_iou", "mean IoU").
    """
    phases = by_phase(history)
    undone = {number for number, epoch in enumerate(kept) if epoch is None}
    column, name = measure
    with drawing():
        figure = Figure((10.5, 4.1), layout="constrained")
        panels = ((("loss", "monitored_loss"), "loss"), ((column, column), name))
        for axes, ((own, key), called) in zip(figure.subplots(1, 2), panels, strict=True):
            for split, colour in (("train", TRAIN), ("valid", VALID)):
                draw(axes, phases, undone, f"{split}_{own}", split, color=colour)
            _ring(axes, phases, kept, f"valid_{own}")
            _mark_tests(axes, phases, kept, [(test or {}).get(key) for test in tests])
            axes.set(title=shown(called), xlabel="epoch")
            tidy(axes, whole=own != "loss")
        _name_phases(figure, phases, undone, title)
        _legend(figure, undone)
        return figure


def by_phase(history: History) -> list[Phase]:
    """The epochs grouped by phase; `start` counts on from phase to phase."""
    phases: list[Phase] = []
    for _, epochs in itertools.groupby(history, lambda epoch: epoch["phase"]):
        own = list(epochs)
        phases.append(Phase(own[0]["frostline"], phases[-1].end if phases else 0, own))
    return phases


def series(phases: Iterable[Phase], column: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and values of a column; NaN for missing and non-finite values, and between phases, so that lines break.

    A phase starts from the best epoch of the previous phase, which need not be the last.
    """
    points: list[tuple[int, float]] = []
    for phase in phases:
        points += [(phase.start + int(epoch["epoch"]), number(epoch.get(column))) for epoch in phase.epochs]
        points += [(phase.end, math.nan)]
    x, y = np.array(points, np.float64).reshape(-1, 2).T
    return x, y


def number(text: object) -> float:
    """A cell of history.csv as a number; NaN if it is empty, infinite or no number."""
    try:
        value = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan
    return value if math.isfinite(value) else math.nan


def plot(axes: Axes, x: np.ndarray, y: np.ndarray, label: str, every_dot: bool, **look: Any) -> None:
    """One line, with markers at all points, or only at isolated ones, which no line would show."""
    finite = np.pad(np.isfinite(y), 1)
    alone = np.flatnonzero(finite[1:-1] & ~finite[:-2] & ~finite[2:])
    look = {"marker": "o", "markersize": 3.2, **look}
    axes.plot(x, y, label=shown(label), markevery=None if every_dot else list(alone), **look)


def tidy(axes: Axes, whole: bool) -> None:
    """Fit the y axis to the lines: a steep loss gets a logarithmic axis; an accuracy (`whole`) ends at 1."""
    values = drawn(axes.lines)
    if not values.size:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "nothing was measured", transform=axes.transAxes, ha="center", color=GREY)
    elif not whole and 0 < values.min() * STEEP < values.max():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if values.min() * 1000 > values.max() else (1,)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif whole and axes.get_ylim()[1] > 1:
        low = axes.get_ylim()[0]
        axes.set_ylim(low, 1 + 0.03 * (1 - low))


def drawn(lines: Iterable[Line2D]) -> np.ndarray:
    """The finite values of the lines."""
    values = [float(y) for line in lines for y in np.asarray(line.get_ydata())]
    return np.array([y for y in values if math.isfinite(y)])


def places(phases: Sequence[Phase], kept: Sequence[int | None], column: str) -> tuple[list[int], list[float]]:
    """The kept epochs, counted through all phases, and their values in a column."""
    x, y = [], []
    for phase, number_kept in zip(phases, kept, strict=False):
        for epoch in phase.epochs:
            if (
                number_kept is not None
                and int(epoch["epoch"]) == number_kept
                and math.isfinite(number(epoch.get(column)))
            ):
                x.append(phase.start + number_kept)
                y.append(number(epoch.get(column)))
    return x, y


def draw(
    axes: Axes,
    phases: Sequence[Phase],
    undone: Collection[int],
    column: str,
    label: str,
    aside: float = 0.0,
    **look: Any,
) -> None:
    """One line for the kept phases and a pale one for the undone phases, shifted right by `aside` epochs."""
    every_dot = sum(len(phase.epochs) for phase in phases) <= MARKED
    for gone in (False, True):
        x, y = series([phase for i, phase in enumerate(phases) if (i in undone) == gone], column)
        if not gone or np.isfinite(y).any():
            name = f"{label}, undone" if gone else label
            plot(axes, x + aside, y, name, every_dot, alpha=PALE if gone else 1, **look)


def _ring(axes: Axes, phases: Sequence[Phase], kept: Sequence[int | None], column: str) -> None:
    x, y = places(phases, kept, column)
    if x:
        axes.plot(x, y, "o", markersize=9, markerfacecolor="none", markeredgecolor=INK, label="kept", zorder=4)


def _mark_tests(axes: Axes, phases: Sequence[Phase], kept: Sequence[int | None], tests: Sequence[float | None]) -> None:
    marked = [
        (phase.start + (epoch if epoch is not None else 0), test)
        for phase, epoch, test in zip(phases, kept, tests, strict=False)
        if epoch is not None and test is not None and math.isfinite(test)
    ]
    if marked:
        x, y = zip(*marked, strict=True)
        axes.plot(x, y, "D", color=TEST, markersize=5.5, markeredgecolor="white", label="test", zorder=5)


def _name_phases(figure: Figure, phases: Sequence[Phase], undone: Collection[int], title: str) -> None:
    """Draw a thin line where a phase begins, and above each phase its frostline, or a number with a key."""
    total = phases[-1].end if phases else 0
    solved = bool(phases) and phases[0].end == 0 < total  # its only point is at 0, so its name is left of that
    left, right = (-0.12 * total if solved else -0.03 * total, 1.03 * total) if total else (-1.0, 1.0)
    spans = [(left if phase.end == 0 else phase.start, phase.end or right * (not total)) for phase in phases]
    names = [shown(phase.frostline, 24) + " (undone)" * (i in undone) for i, phase in enumerate(phases)]
    letter, key = LETTER * (right - left), ""
    if len(phases) > 1 and any(b - a < len(name) * letter for (a, b), name in zip(spans, names, strict=True)):
        key = textwrap.fill("   ".join(f"{i}\u00a0{name}" for i, name in enumerate(names, 1)), 150)
        names = [str(i) for i in range(1, len(names) + 1)]
    above: dict[float, list[str]] = {}
    for (start, end), name in zip(spans, names, strict=True):
        above.setdefault((start + end) / 2, []).append(name)
    figure.suptitle("\n".join(filter(None, [shown(title, 110), key])), x=0.01, ha="left", fontsize=9)
    for axes in figure.axes:
        axes.set_xlim(left, right)
        ticks = MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]).tick_values(0, total)
        axes.set_xticks([tick for tick in ticks if 0 <= tick <= total])
        for start in sorted({phase.start for phase in phases[1:]}):
            axes.axvline(start, color=GREY, linewidth=0.7, linestyle=(0, (4, 3)), zorder=1)
        top = axes.secondary_xaxis("top")
        top.set_xticks(list(above), [", ".join(together) for together in above.values()], fontsize=7.5)
        top.tick_params(length=0, pad=2)
        top.spines["top"].set_visible(False)
        for i in set(undone) & set(range(len(phases))):
            axes.axvspan(phases[i].start, phases[i].end, color=LINE, alpha=0.6, linewidth=0, zorder=0)


def _legend(figure: Figure, undone: Collection[int]) -> None:
    """A legend with each kind of line once, from any panel."""
    lines = [line for axes in figure.axes for line in axes.lines if drawn([line]).size]
    found = {str(line.get_label()): line for line in reversed(lines)}
    names = [(name, found.get(name) or found.get(f"{name}, undone")) for name in ("train", "valid", "kept", "test")]
    listed: list[tuple[str, Any]] = [(name, line) for name, line in names if line is not None]
    listed += [("undone", Patch(color=LINE, alpha=0.6))] * bool(undone)
    if listed:
        labels, handles = zip(*listed, strict=True)
        figure.legend(handles, labels, loc="outside lower center", ncols=len(listed))
