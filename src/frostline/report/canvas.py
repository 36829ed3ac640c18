"""The paper that all pictures are drawn on: one look, text that can always be drawn, files that are written whole."""

from __future__ import annotations

import contextlib
import functools
import io
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

from frostline.files import write_atomically
from frostline.report.colours import GREY, INK, LINE
from frostline.terminal import printable

DPI = 150
MISSING = "□"  # stands for what no font here can draw
SCRIPTS = (  # fonts for what matplotlib's own cannot draw, where they are installed
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei"),
    *("Microsoft YaHei", "PingFang SC", "Hiragino Sans", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS"),
    *("Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai"),
)
LOOK: dict[Any, Any] = {  # matplotlib's own names, which its types spell out one by one
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.dpi": DPI,
    "font.size": 8,
    "text.color": INK,
    "text.parse_math": False,  # a "$" in the name of a class is a "$"
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "svg.hashsalt": "frostline",  # the same picture is the same bytes
}
_lock = threading.RLock()


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """The look of all pictures, whatever this process has set for its own; one thread at a time."""
    with _lock, matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**LOOK, "font.family": _families()})
        yield


def blank(text: str, width: float = 5.0) -> Figure:
    """A figure for when there is nothing to draw: it says so."""
    with drawing():
        figure = Figure((width, 1.6))
        figure.text(0.5, 0.5, shown(text, 80), ha="center", va="center", fontsize=10, color=GREY)
        return figure


def save(figure: Figure, folder: Path, name: str, formats: Sequence[str] = ("png",)) -> None:
    """Write `<folder>/<name>.<format>` for every format ("png", "svg"), all of a file or nothing; raises OSError.

    The same figure gives the same bytes.
    """
    options: dict[str, dict[str, Any]] = {
        "svg": {"metadata": {"Date": None}},
        "png": {"pil_kwargs": {"compress_level": 3}},
    }
    for kind in formats:
        content = io.BytesIO()
        with drawing():
            figure.savefig(content, format=kind, dpi=DPI, **options[kind])
            figure.set_layout_engine("none")  # it is laid out now, for the other formats too
        write_atomically(folder / f"{name}.{kind}", content.getvalue())


def shown(text: str, most: int = 28) -> str:
    """The text as it can be drawn: on one line, at most so many characters (the middle goes), no missing glyphs."""
    safe = "".join(c if ord(c) in _glyphs() else MISSING for c in printable(text))
    if len(safe) <= most:
        return safe
    tail = (most - 1) // 2
    return f"{safe[: most - 1 - tail]}…{safe[len(safe) - tail :]}"


@functools.cache
def _families() -> list[str]:
    installed = set(fontManager.get_font_names())
    return ["DejaVu Sans", *(name for name in SCRIPTS if name in installed)]


@functools.cache
def _glyphs() -> frozenset[int]:
    fonts = [get_font(findfont(FontProperties(family=name))) for name in _families()]
    return frozenset(code for font in fonts for code in font.get_charmap())
