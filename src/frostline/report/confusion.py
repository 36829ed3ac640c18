"""The confusion matrix as a figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from frostline.report.canvas import blank, drawing, shown
from frostline.report.colours import INK, LINE
from frostline.tasks.counts import Counts
from frostline.terminal import human_count

COUNTED = 20  # with at most this many classes, the cells show counts
CELLS = 1_000  # per side, at most
NAMED = 30  # with at most this many classes, the axes name all of them
LETTER = 0.068  # approximate width of a letter in inches
LISTED = 12  # confusions listed beside the matrix if there are more than COUNTED classes


def confusion(counts: Counts, classes: Sequence[str], of: str = "Accuracy", n: int | None = None) -> Figure:
    """The confusion matrix; the colour of a cell is its share of the true class.

    of: the name of the share on the diagonal, such as "Validation accuracy".
    n: the number of images, if pixels are counted.

    With more than 20 classes, colours are stretched towards small shares, and the most frequent confusions are listed
    beside the matrix. With more than 1,000, which no screen can show, a cell combines several consecutive classes.
    """
    if not counts.total:
        return blank("no confusion matrix: nothing was measured")
    many = len(classes) > COUNTED
    names = [shown(name, 22) for name in classes]
    side, margin = min(max(0.44 * len(classes), 2.6), 7.0), LETTER * max(map(len, names))
    with drawing():
        room = (3.3, 1.6) if many else (1.6, 0.8)  # list on the right and colour bar below, or bar on the right
        figure = Figure((side + margin + room[0], side + margin + room[1]), layout="compressed")
        axes = figure.subplots()
        matrix, end = counts.matrix(CELLS), len(classes) - 0.5
        shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        norm = PowerNorm(0.5 if many else 1, 0, 1)
        image = axes.imshow(shares, cmap="Blues", norm=norm, extent=(-0.5, end, end, -0.5))
        measured = f"\nn = {n:,} images, cells count pixels" if n else f" (n = {counts.total:,})"
        axes.set_title(f"{of} {counts.right.sum() / counts.total:.3f}{measured}")
        _name(axes, names)
        ticks = [0, 0.02, 0.1, 0.25, 0.5, 1] if many else [0, 0.25, 0.5, 0.75, 1]
        where = "bottom" if many else "right"
        bar = figure.colorbar(image, ax=axes, location=where, shrink=0.6, pad=0.02, aspect=25, ticks=ticks)
        bar.set_label("share of the true class")
        bar.outline.set_visible(False)
        if many:
            _list(axes, counts, classes, side)
        else:
            _count(axes, matrix, shares)
        return figure


def _name(axes: Axes, names: Sequence[str]) -> None:
    """Name all classes on both axes, or only every n-th."""
    step = 1 if len(names) <= NAMED else -(-len(names) // 20)
    named = range(0, len(names), step)
    level = len(names) <= COUNTED and max(map(len, names)) * LETTER < 0.44
    axes.set_xticks(named, names[::step], rotation=0 if level else 90)
    axes.set_yticks(named, names[::step])
    axes.set(xlabel="predicted", ylabel="true")
    axes.tick_params(length=0 if step == 1 else 3)
    axes.grid(False)
    axes.spines[:].set(visible=True, color=LINE)


def _count(axes: Axes, matrix: np.ndarray, shares: np.ndarray) -> None:
    for (true, predicted), value in np.ndenumerate(matrix):
        if value:
            text = str(value) if value < 10_000 else human_count(int(value))
            colour = "white" if shares[true, predicted] > 0.55 else INK
            axes.text(predicted, true, text, ha="center", va="center", fontsize=7 if len(text) < 6 else 6, color=colour)


def _list(axes: Axes, counts: Counts, classes: Sequence[str], side: float) -> None:
    pairs = counts.most_confused(LISTED)
    lines = [f"{n:,} ×  {shown(classes[true], 24)}\n→ {shown(classes[predicted], 24)}" for n, true, predicted in pairs]
    beside = axes.inset_axes((1.05, 0, 2.3 / side, 1))
    beside.axis("off")
    beside.set_title("most often confused" if pairs else "nothing was confused")
    beside.text(0, 0.98, "\n\n".join(lines), va="top", linespacing=1.3)
