"""The picture of the benchmark: time on a logarithmic axis, the accuracy beside each bar."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from rows import Panel, Row

OURS, PEER, INK, GREY, LINE = "#4477aa", "#b5b5b5", "#333333", "#767676", "#e3e3e3"
ROW_INCHES, HEAD_INCHES, WIDTH_INCHES = 0.29, 0.72, 9.6
TEXT_SHARE = 0.58  # of the longest bar's length, for what is written beside it
TICKS = {1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min", 3600: "1 h", 36000: "10 h"}


def short_time(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def draw(panels: Sequence[Panel]) -> Figure:
    heights = [HEAD_INCHES + ROW_INCHES * len(panel.rows) for panel in panels]
    top, bottom = 0.95, 0.62
    total = sum(heights) + top + bottom
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9, "hatch.linewidth": 0.8}):
        figure = Figure(figsize=(WIDTH_INCHES, total), dpi=150, facecolor="white")
        low, high = limits(panels)
        y = total - top
        for panel, height in zip(panels, heights, strict=True):
            box = (0.225, (y - height + 0.3) / total, 0.76, (height - HEAD_INCHES) / total)
            draw_panel(figure.add_axes(box), panel, low, high)
            y -= height
        title = "The same work: time of the whole process, and accuracy on validation images"
        figure.text(0.02, 1 - 0.32 / total, title, size=12, weight="bold", color=INK, va="center")
        draw_legend(figure, panels, 1 - 0.66 / total)
        note = "Logarithmic time axis. Bars: median; thin lines: fastest to slowest run. Shorter is better."
        figure.text(0.02, 0.2 / total, note, size=8, color=GREY, va="center")
    return figure


def limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """The shortest and the longest time: the same axis for all panels."""
    times = [second for panel in panels for row in panel.rows if row.known for second in row.seconds]
    low = min([1.0, *(t / 2 for t in times)])
    high = max([10.0, *times])
    return low, high


def draw_panel(axes: Axes, panel: Panel, low: float, high: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(low, high * (high / low) ** TEXT_SHARE)
    axes.set_ylim(len(panel.rows) - 0.4, -0.6)
    axes.set_title(f"{panel.name}   {panel.title}", loc="left", size=9.5, weight="bold", color=INK, x=-0.2697, pad=6)
    axes.set_yticks(range(len(panel.rows)), [row.label for row in panel.rows])
    ticks = {at: name for at, name in TICKS.items() if low <= at <= high}
    axes.set_xticks(list(ticks), list(ticks.values()), size=8, color=GREY)
    axes.set_xticks([], minor=True)
    axes.tick_params(length=0)
    axes.grid(axis="x", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    for y, (row, name) in enumerate(zip(panel.rows, axes.get_yticklabels(), strict=True)):
        name.set_color(OURS if row.ours else INK)
        name.set_fontweight("bold" if row.ours else "normal")
        draw_row(axes, y, row, low, panel.scale)


def draw_row(axes: Axes, y: int, row: Row, low: float, stores: bool) -> None:
    if not row.known:
        axes.text(low * 1.05, y, "no figure: see the table", color=GREY, va="center")
        return
    median, least, most = row.seconds
    colour = OURS if row.ours else PEER
    hatched = {"hatch": "////", "edgecolor": "white"} if row.measured else {}
    axes.barh(y, median - low, left=low, height=0.66, color=colour, linewidth=0, **hatched)
    if most / least > 1.01:
        axes.plot([least, most], [y, y], color=INK, linewidth=1.1, solid_capstyle="butt")
    beside = axes.annotate(
        short_time(median), (max(median, most), y), (5, 0), textcoords="offset points", va="center", color=INK, size=9
    )
    accuracy = f"accuracy {row.accuracy:.3f}" + (f" after {row.measured[-1]} epochs" if row.measured else "")
    size = f" · store {row.store_bytes / 1e6:.0f} MB" if stores and row.store_bytes else ""
    axes.annotate(accuracy + size, (1, 0.5), (9, 0), xycoords=beside, textcoords="offset points", va="center",
                  color=GREY, size=8.5)  # fmt: skip


def draw_legend(figure: Figure, panels: Sequence[Panel], y: float) -> None:
    kinds = [Patch(color=OURS, label="Frostline"), Patch(color=PEER, label="others, all epochs run")]
    pairs = sorted({row.measured for panel in panels for row in panel.rows if row.measured})
    if pairs:
        name = f"others, reckoned from {' or '.join(' and '.join(map(str, pair)) for pair in pairs)} epochs"
        kinds.append(Patch(facecolor=PEER, edgecolor="white", hatch="////", linewidth=0, label=name))
    figure.legend(handles=kinds, loc="center left", bbox_to_anchor=(0.012, y), ncols=3, frameon=False, fontsize=9,
                  handlelength=1.6, columnspacing=1.8)  # fmt: skip


def save(panels: Sequence[Panel], file: Path) -> None:
    draw(panels).savefig(file, metadata={"Software": None})
