"""Sheets of pictures: the views that training sees, the worst mistakes, masks laid over their images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from frostline.data.masks import NOTHING
from frostline.report.canvas import blank, drawing, shown
from frostline.report.colours import GREY, palette

ONE_CHANNEL: Any = {"cmap": "gray", "vmin": 0, "vmax": 255}  # of pictures of one channel; others have their colours
SIDE = 1.5  # inches of a picture: at the resolution of a file about 224 pixels
ACROSS = 6  # mistakes side by side
LETTERS = 24  # that fit below a picture
VEIL = 0.55  # how much of a mask's colour covers the picture
LISTED = 24  # classes in a legend


def views_sheet(pictures: np.ndarray, titles: Sequence[str]) -> Figure:
    """A line per image, a column per view; the first view is the plain one, as in evaluation.

    pictures: (images, views, size, size, 3 or 1) of uint8. titles: one per image, written at its left.
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


def mistakes_sheet(pictures: np.ndarray, captions: Sequence[str]) -> Figure:
    """Pictures in the order that they come in, the worst first, each with its caption: "true → predicted 0.98".

    pictures: (N, size, size, 3 or 1) of uint8; without any, a figure that says so.
    """
    if not len(pictures):
        return blank("no mistakes: every image was classified correctly")
    with drawing():
        across = min(len(pictures), ACROSS)
        figure, grid = _grid(-(-len(pictures) // across), across, below=0.36)
        cells = grid.ravel()
        for axes, picture, caption in zip(cells, pictures, captions, strict=False):
            axes.imshow(picture, **ONE_CHANNEL)
            parts = [caption] if len(caption) <= LETTERS else caption.split(" → ")
            axes.set_xlabel("\n→ ".join(shown(part, LETTERS) for part in parts), fontsize=7, labelpad=3)
        for axes in cells[len(pictures) :]:
            axes.remove()
        return figure


def overlay_sheet(pictures: np.ndarray, truth: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> Figure:
    """A line per image: the picture, the true mask over it, the predicted one; below, the classes that occur.

    pictures: (N, size, size, 3 or 1) of uint8. truth, predicted: (N, size, size), class numbers; 255 counts for nothing
    and leaves the picture bare.
    """
    if not len(pictures):
        return blank("no masks to show")
    occurring = [int(i) for i in np.union1d(truth, predicted) if i < len(classes)]
    listed = occurring[:LISTED]
    lines = -(-(len(listed) + 2) // 4)
    with drawing():
        figure, grid = _grid(len(pictures), 3, above=0.25, under=0.2 * lines + 0.2, side=1.9)
        for cells, picture, *masks in zip(grid, pictures, truth, predicted, strict=True):
            cells[0].imshow(picture, **ONE_CHANNEL)
            for axes, mask in zip(cells[1:], masks, strict=True):
                axes.imshow(overlay(picture, mask, len(classes)))
        for axes, title in zip(grid[0], ("picture", "true", "predicted"), strict=True):
            axes.set_title(title, fontsize=8, loc="center", pad=4)
        colours = palette(len(classes)) / 255
        entries = [Patch(color=colours[i], label=shown(classes[i], 18)) for i in listed]
        if len(occurring) > LISTED:
            entries.append(Patch(color="none", label=f"and {len(occurring) - LISTED} more"))
        if (truth == NOTHING).any():
            entries.append(Patch(facecolor="white", edgecolor=GREY, label="counts for nothing"))
        figure.legend(handles=entries, loc="lower center", ncols=min(4, len(entries)), handlelength=1, handleheight=1)
        return figure


def overlay(picture: np.ndarray, mask: np.ndarray, classes: int) -> np.ndarray:
    """The picture (H, W, 3) of uint8 with the colours of its mask (H, W) over it; 255 leaves it bare."""
    covered = (mask < classes)[..., None]
    colours = palette(classes)[np.minimum(mask, classes - 1)]
    return np.where(covered, np.rint(picture * (1 - VEIL) + colours * VEIL), picture).astype(np.uint8)


def _grid(
    rows: int,
    columns: int,
    *,
    side: float = SIDE,
    above: float = 0.08,
    below: float = 0.08,
    beside: float = 0.08,
    under: float = 0.0,
) -> tuple[Figure, np.ndarray]:
    """A figure of (rows, columns) square axes, `side` inches each.

    In inches: `above` all of them for titles, `below` each row for captions, `beside` them for labels on the left, and
    `under` all of them.
    """
    gap = 0.08
    width = beside + columns * (side + gap)
    height = above + rows * (side + below) + under
    figure = Figure((max(width, 3.2), height))
    shift = (max(width, 3.2) - width) / 2
    grid = np.empty((rows, columns), object)
    for row, column in np.ndindex(rows, columns):
        left = shift + beside + column * (side + gap)
        bottom = height - above - row * (side + below) - side
        place = (left / max(width, 3.2), bottom / height, side / max(width, 3.2), side / height)
        grid[row, column] = _bare(figure.add_axes(place))
    return figure, grid


def _bare(axes: Axes) -> Axes:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes
