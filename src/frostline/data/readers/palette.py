"""The classes of colours in masks, from a file beside the masks or from the palette of PASCAL VOC."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from frostline.data.masks import NOTHING
from frostline.errors import DataError, reason

Palette = Mapping[int, str]  # the class of each colour 0xRRGGBB, in the order of the classes

FILES = ("classes.txt", "label_colors.txt", "class_dict.csv")  # ours, CamVid's, and that of CamVid's copies
MOST_COLOURS = 64  # more colours are shades from smoothing or JPEG, not classes
SHOWN = 20
BY_HEX = re.compile(r"(?P<name>.+?)[\s,;:]+#(?P<hex>[0-9a-fA-F]{6})")
BY_NUMBERS = re.compile(r"(?P<name>.+?)[\s,;:]+(?P<rgb>\d{1,3}[\s,;]+\d{1,3}[\s,;]+\d{1,3})")
NUMBERS_FIRST = re.compile(r"(?P<rgb>\d{1,3}[\s,;]+\d{1,3}[\s,;]+\d{1,3})[\s,;:]+(?P<name>.+)")
# fmt: off
VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
VOC_EDGE = 0xE0E0C0  # the edges of objects in PASCAL VOC, which are ignored


def voc_colour(number: int) -> int:
    """The colour 0xRRGGBB of a class of PASCAL VOC: the bits of its number fill red, green and blue from the top bit.

    >>> [f"{voc_colour(number):06x}" for number in (0, 1, 2, 15)]
    ['000000', '800000', '008000', 'c08080']
    """
    channels = [sum((number >> 3 * bit + channel & 1) << 7 - bit for bit in range(8)) for channel in range(3)]
    return channels[0] << 16 | channels[1] << 8 | channels[2]


def named_colours(lines: Iterable[str]) -> list[tuple[str, int]]:
    """The class and colour of each line: `name #rrggbb`, `name r g b` or `r g b name`; [] if a line has neither."""
    found = []
    for line in filter(None, map(str.strip, lines)):
        match = BY_HEX.fullmatch(line) or BY_NUMBERS.fullmatch(line) or NUMBERS_FIRST.fullmatch(line)
        if not match:
            return []
        parts = match.groupdict()
        numbers = [int(n) for n in re.split(r"[\s,;]+", parts["rgb"])] if "rgb" in parts else []
        if max(numbers, default=0) > 255:
            return []
        colour = numbers[0] << 16 | numbers[1] << 8 | numbers[2] if numbers else int(parts["hex"], 16)
        found.append((match["name"].strip(), colour))
    return found


def read_palette(folders: Sequence[Path]) -> Palette | None:
    """The classes of colours, from the first file of colours in these folders; None without one.

    Raises DataError for a duplicate colour or class.
    """
    for file in (folder / name for folder in folders for name in FILES):
        if not file.is_file():
            continue
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            raise DataError(f"{file} cannot be read: {reason(error)}") from error
        pairs = named_colours(lines[1:] if file.suffix == ".csv" else lines)
        palette = {colour: name for name, colour in pairs}
        if len(palette) < len(pairs) or len(set(palette.values())) < len(pairs):
            raise DataError(f"{file} has a colour or a class twice; each class needs one colour of its own")
        if palette:
            return palette
    return None


def known_palette(colours: Collection[int]) -> Palette | None:
    """The classes of PASCAL VOC with these colours; None if PASCAL VOC lacks a colour."""
    palette = {voc_colour(number): name for number, name in enumerate(VOC)}
    shown = set(colours) - {VOC_EDGE}
    return {colour: name for colour, name in palette.items() if colour in shown} if shown <= palette.keys() else None


def values_of(palette: Palette) -> dict[int, int]:
    """The value of each colour: classes from 0 on, `NOTHING` for the edges of PASCAL VOC."""
    return {VOC_EDGE: NOTHING} | {colour: value for value, colour in enumerate(palette)}


def what_is_wanted(colours: Collection[int], folder: Path | str) -> str:
    """Advice for masks whose colours have no class yet."""
    if len(colours) > MOST_COLOURS:
        return (
            f"they hold {len(colours):,} colours, too many for classes: save them as PNG, without smoothing, with one "
            "colour per class"
        )
    some = sorted(colours)[:SHOWN]
    lines = ", ".join(f'"NAME #{colour:06x}"' for colour in some)
    more = f" and {len(colours) - SHOWN} more" if len(colours) > SHOWN else ""
    return f"write {Path(folder) / FILES[0]} with one line per class, and its name for NAME: {lines}{more}"
