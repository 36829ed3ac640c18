"""Sheets of pictures: the training views, the worst mistakes, and masks over their images."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke
from scipy.ndimage import binary_dilation, binary_erosion

from frostline.data.masks import NOTHING
from frostline.report.canvas import blank, drawing, shown
from frostline.report.colours import GREY, INK, palette
from frostline.report.pictures import Masked, Shot

ONE_CHANNEL: Any = {"cmap": "gray", "vmin": 0, "vmax": 255}  # imshow ignores these for RGB
SIDE = 1.5  # inches per picture, about 224 pixels in the file
ACROSS = 6  # mistakes per line
LETTERS = 24  # letters that fit below a picture
VEIL = 0.55  # opacity of a mask
LISTED = 24  # classes in a legend
LARGER = ((1, 2.9), (3, 2.1))  # (most pictures, inches per picture): fewer pictures are drawn larger
NARROWEST = 3.05  # inches, of a figure
WIDE = 0.0615  # approximate width of a heading's letter in inches
READ = "Read: true → predicted, with the probability of the prediction."
ORDER = " The least probable true label comes first."


def views_sheet(pictures: np.ndarray, titles: Sequence[str]) -> Figure:
    """One line per image and one column per view; the first view is the plain one, as in evaluation.

    pictures: (images, views, size, size, 3 or 1) of uint8. titles: one per image, written on its left.
    """
    if not pictures.size:
        return blank("no training views")
    with drawing():
        figure, grid = _grid(*pictures.shape[:2], beside=0.25, above=0.25)
        for cells, views, title in zip(grid, pictures, titles, strict=True):
            for axes, view in zip(cells, views, strict=True):
                axes.imshow(view, **ONE_CHANNEL)
            cells[0].set_ylabel(shown(title, 20), fontsize=7)
        for number, axes in enumerate(grid[0]):
            axes.set_title(f"view {number}" + ", as evaluated" * (number == 0), fontsize=8, loc="center", pad=4)
        return figure


def mistakes_sheet(shots: Sequence[Shot], count: int, of: str) -> Figure:
    """The mistakes, the worst first as given: the file name above each picture, "true → predicted 0.98" below.

    count: the number of all mistakes. of: the measured images, "153 validation images". Without mistakes, the figure
    says so.
    """
    if not shots:
        return blank(f"no mistakes: all of {of} are labelled correctly", 6)
    rows = -(-len(shots) // ACROSS)
    across = -(-len(shots) // rows)
    side = next((side for most, side in LARGER if len(shots) <= most), SIDE)
    shown_of = f"{len(shots)} of {count:,}" if len(shots) < count else f"{count:,}"
    heading = [f"{shown_of} mistake{'s' * (count != 1)} among {of}", READ + ORDER * (len(shots) > 1)]
    letters = round(LETTERS * side / SIDE)
    captions = [_caption(shot, letters) for shot in shots]
    below = 0.32 + 0.15 * any("\n" in caption for caption in captions)
    with drawing():
        figure, grid = _grid(rows, across, heading, side=side, above=0.22, below=below)
        cells = grid.ravel()
        for axes, shot, caption in zip(cells, shots, captions, strict=False):
            axes.imshow(shot.pixels, **ONE_CHANNEL)
            axes.set_title(shown(_file(shot.name), letters), fontsize=6.5, color=GREY, loc="center", pad=3)
            axes.set_xlabel(caption, fontsize=7, labelpad=3)
        for axes in cells[len(shots) :]:
            axes.remove()
        return figure


def _caption(shot: Shot, letters: int) -> str:
    """ "true → predicted 0.98", on two lines if it is too long for one."""
    true, said = shot.true or "none", f"{shot.predicted or 'none'} {shot.p:.2f}"
    whole = f"{true} → {said}"
    return shown(whole, letters) if len(whole) <= letters else f"{shown(true, letters)}\n→ {shown(said, letters - 2)}"


def overlay_sheet(masks: Sequence[Masked], classes: Sequence[str], title: str, colours: Sequence[int] = ()) -> Figure:
    """One line per image: the picture, its true mask, its predicted mask; the legend has the classes that occur.

    colours: of the classes, 0xRRGGBB, if the user gave them.

    The first class has no colour; ignored pixels are paler. White edges outline the true regions, also over the
    prediction: colour outside them is too much, no colour inside is too little.
    """
    if not masks:
        return blank("no masks to show")
    truth, painted = np.stack([own.truth for own in masks]), palette(len(classes), colours)
    occurring = [int(i) for i in np.union1d(truth, np.stack([own.predicted for own in masks])) if i < len(classes)]
    entries = _entries(occurring, classes, painted, nothing=bool((truth == NOTHING).any()))
    lines, side = -(-len(entries) // 3), 1.9
    with drawing():
        figure, grid = _grid(len(masks), 3, [title], above=0.25, below=0.24, under=0.2 * lines + 0.2, side=side)
        for cells, own in zip(grid, masks, strict=True):
            cells[0].imshow(own.pixels, **ONE_CHANNEL)
            for axes, mask in zip(cells[1:], (own.truth, own.predicted), strict=True):
                axes.imshow(overlay(own.pixels, mask, painted, edges=own.truth))
            said = f"{shown(_file(own.name), 48)} · mean IoU {own.iou:.3f}"
            cells[0].set_xlabel(said, fontsize=7, labelpad=3, loc="left")
        for axes, name in zip(grid[0], ("picture", "true", "predicted"), strict=True):
            axes.set_title(name, fontsize=8, loc="center", pad=4)
        figure.legend(handles=entries, loc="lower center", ncols=min(3, len(entries)), handlelength=1.2)
        return figure


def overlay(picture: np.ndarray, mask: np.ndarray, colours: np.ndarray, edges: np.ndarray | None = None) -> np.ndarray:
    """The picture (H, W, 3 or 1) of uint8 with its mask (H, W) over it, in the colours (classes, 3): (H, W, 3).

    Class 0, the background if there is one, has no colour; 255 is drawn in translucent white. The edges of the other
    classes are opaque.
    edges: a mask (H, W) whose regions also get white edges with a dark outline.
    """
    classes = len(colours)
    bare, nothing = (mask == 0)[..., None], (mask >= classes)[..., None]
    veil = np.where(nothing, 255, colours[np.minimum(mask, classes - 1)])
    base = np.broadcast_to(picture, (*mask.shape, 3))
    laid = np.where(bare, base, np.rint(base * (1 - VEIL) + veil * VEIL)).astype(np.uint8)
    own = _edge(mask, classes)
    laid[own] = colours[mask[own]]
    if edges is not None:
        white = _edge(edges, classes)
        laid[binary_dilation(white) & ~white] = 30
        laid[white] = 255
    return laid


def _edge(mask: np.ndarray, classes: int) -> np.ndarray:
    """The inner edges of a mask's regions, except those of the first class: (H, W) of bool."""
    width, edge = max(1, round(len(mask) / 160)), np.zeros(mask.shape, bool)
    for number in np.unique(mask[(mask > 0) & (mask < classes)]):
        region = mask == number
        edge |= region & ~binary_erosion(region, iterations=width)
    return edge


def _entries(occurring: Sequence[int], classes: Sequence[str], painted: np.ndarray, *, nothing: bool) -> list[Any]:
    """The entries of a legend: the classes that occur, ignored pixels, and the edge."""
    colours, edged = painted / 255, partial(Patch, facecolor="white", edgecolor=GREY)
    entries: list[Any] = [
        Patch(color=colours[i], label=shown(classes[i], 22)) if i else edged(label=f"{shown(classes[0], 15)} (bare)")
        for i in occurring[:LISTED]
    ]
    if len(occurring) > LISTED:
        entries.append(Patch(color="none", label=f"and {len(occurring) - LISTED} more"))
    if nothing:
        entries.append(edged(hatch="...", label="ignored"))
    halo = [Stroke(linewidth=2.6, foreground=INK), Normal()]
    return [*entries, Line2D([], [], color="white", linewidth=1.4, path_effects=halo, label="edge of the ground truth")]


def _file(name: str) -> str:
    """The last part of a path; the page has the full path."""
    return PurePosixPath(name.replace("\\", "/")).name or name


def _grid(
    rows: int,
    columns: int,
    heading: Sequence[str] = (),
    *,
    side: float = SIDE,
    above: float = 0.08,
    below: float = 0.08,
    beside: float = 0.08,
    under: float = 0.0,
) -> tuple[Figure, np.ndarray]:
    """A figure of (rows, columns) square axes, `side` inches each, below a heading that is wrapped to its width.

    Margins in inches: `above` all axes for titles, `below` each row for captions, `beside` the axes for labels on the
    left, and `under` all axes.
    """
    gap = 0.08
    width = max(beside + columns * (side + gap), NARROWEST)
    shift = (width - beside - columns * (side + gap)) / 2
    lines = [line for text in heading for line in textwrap.wrap(text, int((width - 0.16) / WIDE))]
    top = 0.17 * len(lines) + 0.1 * bool(lines)
    height = top + above + rows * (side + below) + under
    figure = Figure((width, height))
    if lines:
        figure.text(0.08 / width, 1 - 0.08 / height, "\n".join(lines), va="top", fontsize=8, linespacing=1.3)
    grid = np.empty((rows, columns), object)
    for row, column in np.ndindex(rows, columns):
        left = shift + beside + column * (side + gap)
        bottom = height - top - above - row * (side + below) - side
        place = (left / width, bottom / height, side / width, side / height)
        grid[row, column] = _bare(figure.add_axes(place))
    return figure, grid


def _bare(axes: Axes) -> Axes:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes
