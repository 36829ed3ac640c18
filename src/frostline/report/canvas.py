"""What all figures share: one style, text that can always be drawn, and files that are written atomically."""

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
MISSING = "□"  # replaces a character that no installed font has
SCRIPTS = (  # fonts for scripts that matplotlib's own font lacks; used if installed
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei"),
    *("Microsoft YaHei", "PingFang SC", "Hiragino Sans", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS"),
    *("Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai"),
)
LOOK: dict[Any, Any] = {  # Any: matplotlib's types list every valid key as a literal
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.dpi": DPI,
    "font.size": 8,
    "text.color": INK,
    "text.parse_math": False,  # a "$" in a class name is no formula
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
    "svg.hashsalt": "frostline",  # the same figure gives the same bytes
}
_lock = threading.RLock()


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Apply the style of all figures, whatever rcParams this process has set; one thread at a time."""
    with _lock, matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**LOOK, "font.family": _families()})
        yield


def blank(text: str, width: float = 5.0) -> Figure:
    """A figure that only says why there is nothing to draw."""
    with drawing():
        figure = Figure((width, 1.6))
        figure.text(0.5, 0.5, shown(text, 80), ha="center", va="center", fontsize=10, color=GREY)
        return figure


def save(figure: Figure, folder: Path, name: str, formats: Sequence[str] = ("png",)) -> None:
    """Write `<folder>/<name>.<format>` for every format ("png", "svg"), each file atomically; raises OSError.

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
            figure.set_layout_engine("none")  # the layout is done now; the other formats keep it
        write_atomically(folder / f"{name}.{kind}", content.getvalue())


def shown(text: str, most: int = 28) -> str:
    """Text that can be drawn: one line of at most `most` characters (cut in the middle), without missing glyphs."""
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
