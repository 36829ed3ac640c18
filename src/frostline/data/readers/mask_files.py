"""Mask files: what their values stand for, and whether they fit their images."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from frostline.data.decoding import FORMATS, UnreadableImageError
from frostline.data.images import Images, ImageSet
from frostline.data.masks import NOTHING, ColouredError, Masks, read_colours, read_values
from frostline.data.readers.folder import unknown_classes
from frostline.data.readers.palette import (
    Palette,
    known_palette,
    named_colours,
    read_palette,
    values_of,
    what_is_wanted,
)
from frostline.data.split import image_set
from frostline.errors import DataError, reason

Legend = dict[int, str]  # the class that a value stands for, in ascending order of values

BINARY = ("background", "foreground")
MOST_CLASSES = 255  # the number beyond them stands for nothing
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


@dataclass(frozen=True)
class Pairs:
    """Images and the files of their masks, before anybody knows what the values stand for.

    names: what people call the images.
    """

    images: Sequence[Path]
    masks: Sequence[Path]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Key:
    """What the folders of masks say about them; None where they say nothing.

    legend: the class of each value. palette: the class of each colour. folder: where such a file would lie.
    """

    legend: Legend | None = None
    palette: Palette | None = None
    folder: Path = Path()


def read_key(folders: Sequence[Path]) -> Key:
    """What `classes.txt`, `classes.json` or a file of colours in the first folder that has one says."""
    return Key(read_legend(folders), read_palette(folders), folders[0])


@dataclass(frozen=True)
class _Look:
    """What is in the masks of each split.

    present: which values each mask holds, (N, 256) of bool. colours: the value of each colour; None without colours.
    """

    present: dict[str, np.ndarray]
    legend: Legend | None
    colours: Mapping[int, int] | None = None
    notes: tuple[str, ...] = ()


def mask_set(name: str, splits: dict[str, Pairs], key: Key, seed: int, notes: tuple[str, ...] = ()) -> ImageSet:
    """A data set of the splits, which are "train" and perhaps "valid" and "test".

    key: what the values or colours stand for. Without a legend the values of the training masks are the classes. Two of
        them, 0 and 1 or 0 and 255, are background and foreground. 255 is otherwise no class: such pixels count for
        nothing. Without a palette colours have to be those of PASCAL VOC.

    Raises DataError for masks that cannot be read, do not fit their images or hold values or colours that are no class,
    and for fewer than two classes.
    """
    look = _looked(splits, key, name)
    shown = _values(look.present["train"])
    legend = _legend(shown, look.legend)
    if len(legend) < 2:
        held = ", ".join(str(value) for value in shown) or "no values"
        raise DataError(f"the training masks of {name} hold {held}: that is less than the two classes that are wanted")
    for split, pairs in splits.items():
        _refuse_others(pairs, look.present[split], legend)
    classes = tuple(legend.values())
    numbers = _numbers(legend, classes)
    images = {split: _images(pairs, numbers, look.colours) for split, pairs in splits.items()}
    unseen = [label for value, label in legend.items() if value not in shown]
    if unseen:
        notes = (*notes, f"no training mask shows {', '.join(unseen[:5])}{' …' if len(unseen) > 5 else ''}")
    return image_set(name, classes, images, seed, (*notes, *look.notes))


def matched(pairs: Pairs, key: Key, classes: tuple[str, ...], where: object) -> Images:
    """Images whose masks are matched to given classes by name. Raises DataError like `mask_set`.

    key: without a legend, classes that are numbers for values are taken, and background and foreground for 0 and 1 or
        255.
    """
    look = _looked({"": pairs}, key, where)
    present, legend = look.present[""], look.legend
    shown = _values(present)
    if legend is None and all(name.isdecimal() and int(name) <= 255 for name in classes):
        legend = {int(name): name for name in classes}
    elif legend is None and classes != BINARY:
        some = ", ".join(classes[:10])
        raise DataError(f"nothing says which value of the masks of {where} is which of {some}; add a classes.txt there")
    else:
        legend = _legend(shown, legend or dict(enumerate(BINARY)))
    _refuse_others(pairs, present, legend)
    extra = [label for value, label in legend.items() if value in shown and label not in classes]
    if extra:
        raise unknown_classes(where, extra, classes)
    return _images(pairs, _numbers(legend, classes), look.colours)


def _looked(splits: Mapping[str, Pairs], key: Key, where: object) -> _Look:
    """What is in the masks: values, or where one of them is coloured the colours of all."""
    held = {split: held_in(pairs, read_values) for split, pairs in splits.items()}
    coloured = sum(each is None for some in held.values() for each in some)
    if not coloured:
        return _Look({split: _present(some, None) for split, some in held.items()}, key.legend)
    held = {split: held_in(pairs, read_colours) for split, pairs in splits.items()}
    colours = {colour for some in held.values() for each in some if each is not None for colour in each.tolist()}
    palette = key.palette or known_palette(colours)
    if palette is None:
        raise DataError(
            f"{coloured} of {sum(map(len, splits.values()))} masks of {where} are RGB colours, and nothing says which "
            f"class each is; {what_is_wanted(colours, key.folder)}"
        )
    values = values_of(palette)
    for split, pairs in splits.items():
        _refuse_colours(pairs, held[split], values)
    names = ", ".join(palette.values())
    notes = () if key.palette else (f"masks in the colours of PASCAL VOC: {names}; a classes.txt would say others",)
    present = {split: _present(some, values) for split, some in held.items()}
    return _Look(present, dict(enumerate(palette.values())), values, notes)


def _present(held: Sequence[np.ndarray | None], values: Mapping[int, int] | None) -> np.ndarray:
    """Which values each mask holds, (N, 256) of bool, from what is in it: values, or colours that have values."""
    present = np.zeros((len(held), 256), bool)
    for row, each in zip(present, held, strict=True):
        if each is not None:
            row[each if values is None else [values[colour] for colour in each.tolist()]] = True
    return present


def _refuse_colours(pairs: Pairs, held: Sequence[np.ndarray | None], values: Mapping[int, int]) -> None:
    faults = []
    for mask, each in zip(pairs.masks, held, strict=True):
        strange = [f"#{colour:06x}" for colour in ([] if each is None else each.tolist()) if colour not in values]
        faults += [f"{mask}: {', '.join(strange[:5])}"] if strange else []
    if faults:
        known = ", ".join(f"#{colour:06x}" for colour in list(values)[:10])
        raise DataError(
            f"{len(faults)} masks hold colours that are no class: {some_of(faults)}; the colours are {known}; add a "
            "line NAME #rrggbb for each to the file that names them"
        )


def read_legend(folders: Iterable[Path]) -> Legend | None:
    """What `classes.txt` or `classes.json` in the first folder that has one says about values; None without one.

    The text file has a class in each line, the first one for value 0, perhaps with its colour. The JSON is such a list,
    or an object from value to class. Raises DataError for anything else.
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
            'JSON as ["sky", "sea"] or {"0": "sky", "7": "sea"}' if file.suffix == ".json" else "a class in each line"
        )
        raise DataError(f"{file} cannot be read ({reason(error)}); give {right}, in UTF-8") from error
    names = list(legend.values())
    if not all(0 <= value <= 255 for value in legend) or not 2 <= len(legend) <= MOST_CLASSES:
        held = ", ".join(str(value) for value in list(legend)[:5]) or "none"
        raise DataError(f"{file} names {len(names)} values ({held}); 2 to {MOST_CLASSES} of 0 … 255 are wanted")
    if "" in names or len(set(names)) < len(names):
        raise DataError(f"{file} has a class twice or one without a name; every value needs a name of its own")
    return dict(sorted(legend.items()))


def held_in(pairs: Pairs, read: Callable[[Path], np.ndarray]) -> list[np.ndarray | None]:
    """What is in each mask, once: its values or colours; None of one that has colours in place of values.

    Reads every mask and the header of every image, in threads. Raises DataError naming the masks that cannot be read or
    have another size than their images.
    """
    with ThreadPoolExecutor() as pool:
        looks = list(pool.map(lambda image, mask: _look(image, mask, read), pairs.images, pairs.masks))
    faults = [f"{mask}: {look}" for mask, look in zip(pairs.masks, looks, strict=True) if isinstance(look, str)]
    if faults:
        raise DataError(f"{len(faults)} of {len(looks)} masks cannot be used: {some_of(faults)}")
    return [look for look in looks if not isinstance(look, str)]


def some_of(faults: Sequence[str]) -> str:
    """The first few of many."""
    return "; ".join(faults[:5]) + (" …" if len(faults) > 5 else "")


def _look(image: Path, mask: Path, read: Callable[[Path], np.ndarray]) -> np.ndarray | str | None:
    """What a mask holds, None where these are colours, or why it cannot be used."""
    try:
        values = read(mask)
    except ColouredError:
        return None
    except UnreadableImageError as error:
        return str(error)
    size, expected = values.shape[::-1], _shown_size(image)
    if expected and size != expected:
        return f"{size[0]} × {size[1]} pixels, its image {expected[0]} × {expected[1]}"
    small = values.dtype == np.uint8  # counting is faster than sorting
    return np.flatnonzero(np.bincount(values.ravel(), minlength=256)) if small else np.unique(values)


def _shown_size(file: Path) -> tuple[int, int] | None:
    """Width and height of an image when it is upright; None where that cannot be told, which decoding will tell."""
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
    """What values stand for where those are shown: as given, else as they suggest. A second of two may be 255."""
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
            f"{len(faults)} masks hold values that are no class: {some_of(faults)}; the classes are {classes}"
            f"{' …' if len(legend) > 10 else ''}, and {NOTHING} for pixels that count for nothing"
        )


def _numbers(legend: Legend, classes: tuple[str, ...]) -> np.ndarray:
    """(256,) of uint8: the class number of every value."""
    numbers = np.full(256, NOTHING, np.uint8)
    for value, name in legend.items():
        if name in classes:
            numbers[value] = classes.index(name)
    return numbers


def _images(pairs: Pairs, numbers: np.ndarray, colours: Mapping[int, int] | None) -> Images:
    return Images(pairs.images, Masks(pairs.masks, numbers, colours), pairs.names)
