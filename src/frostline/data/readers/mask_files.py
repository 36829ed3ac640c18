"""Mask files: the classes of their values, and whether they fit their images."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from frostline import terminal
from frostline.data.decoding import FORMATS, UnreadableImageError
from frostline.data.images import Images, ImageSet
from frostline.data.masks import (
    NO_COLOUR,
    NOTHING,
    ColouredError,
    Masks,
    colours_of_values,
    read_colours,
    read_values,
)
from frostline.data.readers.folder import unknown_classes
from frostline.data.readers.palette import (
    VOC_EDGE,
    Palette,
    known_palette,
    named_colours,
    read_palette,
    values_of,
    what_is_wanted,
)
from frostline.data.split import image_set
from frostline.errors import DataError, reason

Legend = dict[int, str]  # the class of each value, in ascending order of values

BINARY = ("background", "foreground")
MOST_CLASSES = 255  # the next number marks ignored pixels
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


@dataclass(frozen=True)
class Pairs:
    """Images and the files of their masks, before the classes of the values are known.

    names: names of the images for people.
    """

    images: Sequence[Path]
    masks: Sequence[Path]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Key:
    """The classes that files beside the masks define; None without such a file.

    legend: the class of each value. palette: the class of each colour. folder: where such a file belongs.
    """

    legend: Legend | None = None
    palette: Palette | None = None
    folder: Path = Path()


def read_key(folders: Sequence[Path]) -> Key:
    """The classes in `classes.txt`, `classes.json` or a file of colours, from the first folder that has one."""
    return Key(read_legend(folders), read_palette(folders), folders[0])


@dataclass(frozen=True)
class _Look:
    """What is in the masks of each split.

    present: which values each mask holds, (N, 256) of bool. colours: the value of each colour; None without colours.
    palette: the class of each colour, if known, also of masks whose values decide.
    """

    present: dict[str, np.ndarray]
    legend: Legend | None
    colours: Mapping[int, int] | None = None
    palette: Palette | None = None
    notes: tuple[str, ...] = ()


def mask_set(name: str, splits: dict[str, Pairs], key: Key, seed: int, notes: tuple[str, ...] = ()) -> ImageSet:
    """A data set of the splits "train" and optionally "valid" and "test".

    key: the classes of the values or colours. A palette that has all colours of the masks decides, whatever the mode of
        the files. Without a legend the values of the training masks are the classes. Two values, 0 and 1 or 0 and 255,
        are background and foreground. Otherwise 255 marks ignored pixels. Without a palette the colours of RGB masks
        must be those of PASCAL VOC.

    Raises DataError for masks that cannot be read, do not fit their images, or hold values or colours without a class,
    and for fewer than two classes.
    """
    look = _looked(splits, key, name)
    shown = _values(look.present["train"])
    legend = _legend(shown, look.legend)
    if len(legend) < 2:
        held = ", ".join(str(value) for value in shown) or "no values"
        raise DataError(f"the training masks of {name} hold {held}; segmentation needs at least two classes")
    for split, pairs in splits.items():
        _refuse_others(pairs, look.present[split], legend)
    classes = tuple(legend.values())
    numbers = _numbers(legend, classes)
    painted = _painted(legend, look.palette, splits["train"].masks[0])
    images = {split: _images(pairs, numbers, look.colours, painted) for split, pairs in splits.items()}
    unseen = [label for value, label in legend.items() if value not in shown]
    if unseen:
        notes = (*notes, f"no training mask shows {', '.join(unseen[:5])}{' …' if len(unseen) > 5 else ''}")
    return image_set(name, classes, images, seed, (*notes, *look.notes))


def matched(pairs: Pairs, key: Key, classes: tuple[str, ...], where: object) -> Images:
    """Images whose masks are matched to given classes by name. Prints notes; raises DataError like `mask_set`.

    key: without a legend, class names that are numbers stand for these values, and background and foreground for 0
        and 1 or 255.
    """
    look = _looked({"": pairs}, key, where)
    present, legend = look.present[""], look.legend
    shown = _values(present)
    if legend is None and all(name.isdecimal() and int(name) <= 255 for name in classes):
        legend = {int(name): name for name in classes}
    elif legend is None and classes != BINARY:
        some = ", ".join(classes[:10])
        raise DataError(f"the masks of {where} have values without class names ({some}); add a classes.txt there")
    else:
        legend = _legend(shown, legend or dict(enumerate(BINARY)))
    _refuse_others(pairs, present, legend)
    for note in look.notes:
        terminal.say(f"note: {note}")
    extra = [label for value, label in legend.items() if value in shown and label not in classes]
    if extra:
        raise unknown_classes(where, extra, classes)
    return _images(pairs, _numbers(legend, classes), look.colours)


def _looked(splits: Mapping[str, Pairs], key: Key, where: object) -> _Look:
    """The values in the masks, or their colours if any mask is coloured or a file says the classes of the colours."""
    held = {split: held_in(pairs, read_values) for split, pairs in splits.items()}
    coloured = sum(each is None for some in held.values() for each in some)
    by_value = not coloured
    notes: tuple[str, ...] = ()
    if by_value and key.palette:
        shown = {each for split, pairs in splits.items() for each in _shown(pairs, held[split])}
        by_value, notes = _decided(shown, key.legend, key.palette)
    if by_value:
        present = {split: _present(some, None) for split, some in held.items()}
        return _Look(present, key.legend, palette=key.palette, notes=notes)
    held = {split: held_in(pairs, read_colours) for split, pairs in splits.items()}
    colours = {colour for some in held.values() for each in some if each is not None for colour in each.tolist()}
    palette = key.palette or known_palette(colours)
    if palette is None:
        raise DataError(
            f"{coloured} of {sum(map(len, splits.values()))} masks of {where} have RGB colours, but no file names "
            f"their classes; {what_is_wanted(colours, key.folder)}"
        )
    values = values_of(palette)
    for split, pairs in splits.items():
        _refuse_colours(pairs, held[split], values)
    if not key.palette:
        names = ", ".join(palette.values())
        notes = (f"masks in the colours of PASCAL VOC: {names}; a classes.txt overrides them",)
    present = {split: _present(some, values) for split, some in held.items()}
    return _Look(present, dict(enumerate(palette.values())), values, palette, notes)


def _shown(pairs: Pairs, held: Sequence[np.ndarray | None]) -> set[tuple[int, int]]:
    """The values in masks without colours, each with the colour that its file gives it."""
    with ThreadPoolExecutor() as pool:
        tables = list(pool.map(colours_of_values, pairs.masks))
    return {
        (value, int(table[value]))
        for table, values in zip(tables, held, strict=True)
        if values is not None
        for value in values.tolist()
    }


def _decided(shown: set[tuple[int, int]], legend: Legend | None, palette: Palette) -> tuple[bool, tuple[str, ...]]:
    """Whether values decide the classes rather than colours, with a note if the others would give other classes.

    shown: values and their colours. Colours decide if the palette has all of them. Otherwise the palette is for display
    only, if the values are its lines. If only the value 255 differs from the line of its colour, and it has the colour
    that it has in PASCAL VOC or that of another value (padding), it means ignored pixels.
    """
    lines, given = values_of(palette), legend or dict(enumerate(palette.values()))
    other = [(value, colour) for value, colour in shown if lines.get(colour, value) != value]
    painted = {colour for value, colour in shown if value != NOTHING} | {VOC_EDGE}
    if other and all(value == NOTHING and colour in painted for value, colour in other):
        return True, ()
    classes = _legend({value for value, _ in shown}, given)
    known = sorted((value, colour) for value, colour in shown if colour in palette)
    # A value with two colours, or a colour with two values, shows that each file has numbers of its own.
    fits = len({value for value, _ in known}) == len({colour for _, colour in known}) == len(known)
    possible = fits and all(value in classes or value == NOTHING for value, _ in shown)
    lacking = sorted({colour for _, colour in shown if colour not in lines})
    by_value = bool(lacking) and fits and (possible or legend is not None)
    differing = [(value, colour) for value, colour in known if classes.get(value) != palette[colour]]
    if not possible or not differing:
        return by_value, ()
    value, colour = differing[0]
    by_values, by_colours = classes.get(value, "ignored"), palette[colour]
    if not by_value:
        told = f"the colours of the masks decide their classes: #{colour:06x} is {by_colours}"
        return False, (f"{told}; by value ({value}) it would be {by_values}; remove the file's colours to read values",)
    first = "a transparent colour" if lacking[0] == NO_COLOUR else f"#{lacking[0]:06x}"
    told = f"the values of the masks decide their classes: {value} is {by_values}"
    return True, (f"{told}; by colour (#{colour:06x}) it would be {by_colours}, but {first} has no class",)


def _present(held: Sequence[np.ndarray | None], values: Mapping[int, int] | None) -> np.ndarray:
    """Which values each mask holds, (N, 256) of bool, from its values, or from its colours and their values."""
    present = np.zeros((len(held), 256), bool)
    for row, each in zip(present, held, strict=True):
        if each is not None:
            row[each if values is None else [values[colour] for colour in each.tolist()]] = True
    if values is not None:
        present[:, NOTHING] = False  # here it is never the second of two classes
    return present


def _refuse_colours(pairs: Pairs, held: Sequence[np.ndarray | None], values: Mapping[int, int]) -> None:
    faults = []
    for mask, each in zip(pairs.masks, held, strict=True):
        strange = [f"#{colour:06x}" for colour in ([] if each is None else each.tolist()) if colour not in values]
        faults += [f"{mask}: {', '.join(strange[:5])}"] if strange else []
    if faults:
        known = ", ".join(f"#{colour:06x}" for colour in list(values)[:10])
        raise DataError(
            f"{len(faults)} masks hold colours without a class: {some_of(faults)}; the known colours are {known}; add "
            "a line NAME #rrggbb for each new colour to the file that names them"
        )


def read_legend(folders: Iterable[Path]) -> Legend | None:
    """The classes of values in `classes.txt` or `classes.json`, from the first folder that has one; None without one.

    The text file has one class per line, the first for value 0, optionally with its colour. The JSON is a list of
    classes, or an object from value to class. Raises DataError for anything else.
    """
    files = [folder / name for folder in folders for name in ("classes.txt", "classes.json")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    try:
        text = file.read_text(encoding="utf-8-sig")
        lines = text.rstrip().splitlines()
        listed = json.loads(text) if file.suffix == ".json" else [n for n, _ in named_colours(lines)] or lines
        if not isinstance(listed, list | dict):
            raise TypeError("neither a list nor an object")
        named = listed.items() if isinstance(listed, dict) else enumerate(listed)
        legend = {int(value): str(name).strip() for value, name in named}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        right = (
            'JSON like ["sky", "sea"] or {"0": "sky", "7": "sea"}' if file.suffix == ".json" else "one class per line"
        )
        raise DataError(f"{file} cannot be read ({reason(error)}); give {right}, in UTF-8") from error
    names = list(legend.values())
    if not all(0 <= value <= 255 for value in legend) or not 2 <= len(legend) <= MOST_CLASSES:
        held = ", ".join(str(value) for value in list(legend)[:5]) or "none"
        raise DataError(f"{file} names {len(names)} values ({held}); name 2 to {MOST_CLASSES} values of 0 … 255")
    if "" in names or len(set(names)) < len(names):
        raise DataError(f"{file} has a duplicate or empty class name; every value needs its own name")
    return dict(sorted(legend.items()))


def held_in(pairs: Pairs, read: Callable[[Path], np.ndarray]) -> list[np.ndarray | None]:
    """The distinct values or colours in each mask; None for a mask with colours instead of values.

    Reads every mask and the header of every image, in threads. Raises DataError for masks that cannot be read or
    differ from their images in size.
    """
    with ThreadPoolExecutor() as pool:
        looks = list(pool.map(lambda image, mask: _look(image, mask, read), pairs.images, pairs.masks))
    faults = [f"{mask}: {look}" for mask, look in zip(pairs.masks, looks, strict=True) if isinstance(look, str)]
    if faults:
        raise DataError(f"{len(faults)} of {len(looks)} masks cannot be used: {some_of(faults)}")
    return [look for look in looks if not isinstance(look, str)]


def some_of(faults: Sequence[str]) -> str:
    """The first few faults."""
    return "; ".join(faults[:5]) + (" …" if len(faults) > 5 else "")


def _look(image: Path, mask: Path, read: Callable[[Path], np.ndarray]) -> np.ndarray | str | None:
    """The values of a mask, None if it has colours, or the reason why it cannot be used."""
    try:
        values = read(mask)
    except ColouredError:
        return None
    except UnreadableImageError as error:
        return str(error)
    size, expected = values.shape[::-1], _shown_size(image)
    if expected and size != expected:
        return f"{size[0]} × {size[1]} pixels, but its image has {expected[0]} × {expected[1]}"
    small = values.dtype == np.uint8  # counting is faster than sorting
    return np.flatnonzero(np.bincount(values.ravel(), minlength=256)) if small else np.unique(values)


def _shown_size(file: Path) -> tuple[int, int] | None:
    """Width and height of the upright image; None if unreadable, which decoding will report."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            turned = False
            if image.format != "TIFF" and image.info.keys() & {"exif", "xmp"}:  # a TIFF opens with its upright size
                with contextlib.suppress(Exception):  # a broken EXIF block says nothing about the pixels
                    turned = image.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS
            return (image.height, image.width) if turned else image.size
    except Exception:
        return None


def _values(present: np.ndarray) -> set[int]:
    return {int(value) for value in np.flatnonzero(present.any(axis=0))}


def _legend(shown: set[int], legend: Legend | None) -> Legend:
    """The classes of the values shown: as given, else as the values suggest. The second of two may be 255."""
    if legend is None and shown not in ({0, 1}, {0, 255}):
        return {value: str(value) for value in sorted(shown - {NOTHING})}
    legend = legend or dict(enumerate(BINARY))
    if set(legend) == {0, 1} and 255 in shown and 1 not in shown:
        return {0: legend[0], 255: legend[1]}
    return legend


def _refuse_others(pairs: Pairs, present: np.ndarray, legend: Legend) -> None:
    other = present.copy()
    other[:, [*legend, NOTHING]] = False
    rows = np.flatnonzero(other.any(axis=1)).tolist()
    faults = [f"{pairs.masks[row]}: {', '.join(map(str, np.flatnonzero(other[row])[:5]))}" for row in rows]
    if faults:
        classes = ", ".join(f"{value} = {name}" for value, name in list(legend.items())[:10])
        raise DataError(
            f"{len(faults)} masks hold values without a class: {some_of(faults)}; the classes are {classes}"
            f"{' …' if len(legend) > 10 else ''}, and {NOTHING} for ignored pixels"
        )


def _numbers(legend: Legend, classes: tuple[str, ...]) -> np.ndarray:
    """(256,) of uint8: the class number of every value."""
    numbers = np.full(256, NOTHING, np.uint8)
    for value, name in legend.items():
        if name in classes:
            numbers[value] = classes.index(name)
    return numbers


def _painted(legend: Legend, palette: Palette | None, mask: Path) -> tuple[int, ...]:
    """The colour of each class: of the palette, else that the first mask gives its values; empty if some have none.

    Greys are no colours for people: they are values that a file shows.
    """
    if palette is not None:
        colours = {name: colour for colour, name in palette.items()}
        return tuple(colours[name] for name in legend.values()) if colours.keys() >= set(legend.values()) else ()
    table = colours_of_values(mask)[list(legend)].tolist()
    grey = all(colour == NO_COLOUR or colour % 0x010101 == 0 for colour in table)
    return () if grey or NO_COLOUR in table or len(set(table)) < len(table) else tuple(table)


def _images(
    pairs: Pairs, numbers: np.ndarray, colours: Mapping[int, int] | None, painted: tuple[int, ...] = ()
) -> Images:
    return Images(pairs.images, Masks(pairs.masks, numbers, colours, painted), pairs.names)
