"""Loss and accuracy of a run, epoch by epoch through all its phases."""

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
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from frostline.report.canvas import drawing, shown
from frostline.report.colours import GREY, TEST, TRAIN, VALID

History = Sequence[Mapping[str, str]]
Test = Mapping[str, float] | None

MARKED = 60  # up to so many epochs each one has its dot
STEEP = 50  # a loss that falls to less than this part of itself is drawn on a logarithmic axis
LETTER = 0.016  # about the width of a letter in a phase's name, of a panel's


@dataclass(frozen=True)
class Phase:
    """The epochs of one phase. `start` is how many epochs were trained before it."""

    frostline: str
    start: int
    epochs: Sequence[Mapping[str, str]]

    @property
    def end(self) -> int:
        return self.start + max(int(epoch["epoch"]) for epoch in self.epochs)


def curves(
    history: History, tests: Sequence[Test] = (), measure: str = "accuracy", undone: Collection[int] = ()
) -> Figure:
    """Two panels, loss and accuracy, over the epochs of all phases; each phase's frostline stands at the top.

    history: epochs as in history.csv; what is empty or not finite is left out.
    tests: what each phase's network measured on the test images, `accuracy` and `monitored_loss` (the loss of the
        curves), None where nothing was measured; may be shorter than the plan.
    measure: what the accuracies are called, say "mean IoU".
    undone: the numbers (from 0) of the phases that did not pay: their names say so, and no test is marked there.
    """
    phases = by_phase(history)
    with drawing():
        figure = Figure((10.5, 3.9), layout="constrained")
        losses, accuracies = figure.subplots(1, 2)
        for axes, column, title in ((losses, "loss", "loss"), (accuracies, "accuracy", measure)):
            for split, colour in (("train", TRAIN), ("valid", VALID)):
                x, y = series(phases, f"{split}_{column}")
                plot(axes, x, y, split, every_dot=len(history) <= MARKED, color=colour)
            axes.set(title=shown(title), xlabel="epoch")
        for axes, key in ((losses, "monitored_loss"), (accuracies, "accuracy")):
            standing = [{} if number in undone else test or {} for number, test in enumerate(tests)]
            _mark_tests(axes, phases, [test.get(key) for test in standing])
        for axes in (losses, accuracies):
            tidy(axes, whole=axes is accuracies)
            if not phases or phases[-1].end == 0:
                _write_values(axes)
        _name_phases(figure, phases, undone)
        _legend(figure, accuracies)
        return figure


def by_phase(history: History) -> list[Phase]:
    """The epochs of each phase, counted through all of them."""
    phases: list[Phase] = []
    for _, epochs in itertools.groupby(history, lambda epoch: epoch["phase"]):
        own = list(epochs)
        phases.append(Phase(own[0]["frostline"], phases[-1].end if phases else 0, own))
    return phases


def series(phases: Sequence[Phase], column: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and values of a column; NaN where nothing finite was measured, and between phases, so that lines break.

    A phase starts from the best of the one before, which need not be its last.
    """
    points: list[tuple[int, float]] = []
    for phase in phases:
        points += [(phase.start + int(epoch["epoch"]), number(epoch[column])) for epoch in phase.epochs]
        points += [(phase.end, math.nan)]
    x, y = np.array(points, np.float64).reshape(-1, 2).T
    return x, y


def number(text: str) -> float:
    """A cell of history.csv; NaN for one that is empty, infinite or no number."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return math.nan
    return value if math.isfinite(value) else math.nan


def plot(axes: Axes, x: np.ndarray, y: np.ndarray, label: str, every_dot: bool, **look: Any) -> None:
    """One line, with markers for all points, or only for those that no line would show."""
    finite = np.pad(np.isfinite(y), 1)
    alone = np.flatnonzero(finite[1:-1] & ~finite[:-2] & ~finite[2:])
    look = {"marker": "o", "markersize": 3.2, **look}
    axes.plot(x, y, label=shown(label), markevery=None if every_dot else list(alone), **look)


def tidy(axes: Axes, whole: bool) -> None:
    """A y axis that fits what is drawn: for a loss logarithmic if it is steep; an accuracy (`whole`) ends at 1."""
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
    """The finite values of some lines."""
    values = [float(y) for line in lines for y in np.asarray(line.get_ydata())]
    return np.array([y for y in values if math.isfinite(y)])


def _mark_tests(axes: Axes, phases: Sequence[Phase], tests: Sequence[float | None]) -> None:
    marked = [
        (phase.end, test)
        for phase, test in zip(phases, tests, strict=False)
        if test is not None and math.isfinite(test)
    ]
    if marked:
        x, y = zip(*marked, strict=True)
        axes.plot(x, y, "D", color=TEST, markersize=5.5, markeredgecolor="white", label="test", zorder=3)


def _name_phases(figure: Figure, phases: Sequence[Phase], undone: Collection[int]) -> None:
    """Thin lines where phases begin, and above each phase the name of its frostline, or its number and a key."""
    total = phases[-1].end if phases else 0
    solved = bool(phases) and phases[0].end == 0 < total  # its only point lies at 0: its name goes to the left
    left, right = (-0.12 * total if solved else -0.03 * total, 1.03 * total) if total else (-1.0, 1.0)
    spans = [(left if phase.end == 0 else phase.start, phase.end or right * (not total)) for phase in phases]
    names = [
        shown(phase.frostline, 24) + (" (undone)" if number in undone else "") for number, phase in enumerate(phases)
    ]
    letter = LETTER * (right - left)
    if len(phases) > 1 and any(b - a < len(name) * letter for (a, b), name in zip(spans, names, strict=True)):
        key = "   ".join(f"{i}\u00a0{name}" for i, name in enumerate(names, 1))
        figure.suptitle(textwrap.fill(key, 150), x=0.01, ha="left", fontsize=8)
        names = [str(i) for i in range(1, len(names) + 1)]
    above: dict[float, list[str]] = {}
    for (start, end), name in zip(spans, names, strict=True):
        above.setdefault((start + end) / 2, []).append(name)
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


def _write_values(axes: Axes) -> None:
    """The number beside each point: a head that was solved has no curve to look at."""
    for line in axes.lines:
        for x, y in zip(np.asarray(line.get_xdata()), np.asarray(line.get_ydata()), strict=True):
            if np.isfinite(y):
                axes.annotate(f"{y:.4f}", (x, y), (7, 0), textcoords="offset points", va="center")


def _legend(figure: Figure, axes: Axes) -> None:
    named = [line for line in axes.lines if line.get_label() in ("train", "valid", "test") and drawn([line]).size]
    if named:
        figure.legend(handles=named, loc="outside lower center", ncols=len(named))
