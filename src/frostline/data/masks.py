"""Masks: the class of every pixel of an image, stored as a picture of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from frostline.data.decoding import MOST_PIXELS, Item, Picture, UnreadableImageError, stream_of
from frostline.errors import reason

FORMATS = ("PNG", "BMP", "GIF", "TIFF", "PPM")  # formats that keep every number; JPEG does not
NOTHING = 255  # the class number of ignored pixels, whose class is unknown
NO_COLOUR = -1  # the colour of a value that is transparent or beyond the palette


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of some images, one per image.

    pictures: files or arrays (H, W) of uint8, one value per class. numbers: (256,), the class number of every value.
    colours: the value of each colour 0xRRGGBB in coloured masks; None for other masks.
    painted: the colour 0xRRGGBB of each class, if the masks or a file beside them give all of them; else empty.
    """

    pictures: Sequence[Picture]
    numbers: np.ndarray
    colours: Mapping[int, int] | None = None
    painted: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, rows: Iterable[int]) -> Masks:
        return replace(self, pictures=[self.pictures[i] for i in rows])

    def read(self, i: int) -> Image.Image:
        """The class numbers of one mask as an image of mode L; raises UnreadableImageError."""
        picture = self.pictures[i]
        values = read_values(picture) if self.colours is None else values_by_colour(read_colours(picture), self.colours)
        return Image.fromarray(self.numbers[values])


class ColouredError(UnreadableImageError):
    """A mask with colours instead of values; the file does not say which class each colour is."""


def read_values(picture: Picture) -> np.ndarray:
    """The values (H, W) of uint8 in a mask file: the indices of a palette, or the grey levels of RGB.

    Raises ColouredError for colours, UnreadableImageError for anything else that is not a mask.
    """
    values = _read(picture, np.asarray)
    if values.ndim == 3 and values.shape[2] in (3, 4):
        colours = _opaque(values)
        if not (colours == colours[..., :1]).all():
            raise ColouredError("colours; a mask must have one number per pixel (mode L or P)")
        values = colours[..., 0]
    if values.ndim != 2:
        raise UnreadableImageError(f"a mask of shape {values.shape}; it must have one number per pixel (mode L or P)")
    return _small(values)


def _small(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "biu":
        raise UnreadableImageError(f"mask values of type {values.dtype}; they must be whole numbers")
    if values.size and not 0 <= int(values.min()) <= int(values.max()) <= 255:
        raise UnreadableImageError(f"mask values from {values.min()} to {values.max()}; they must be 0 … 255")
    return values.astype(np.uint8)


def read_colours(picture: Picture) -> np.ndarray:
    """The visible colours (H, W) of a mask as int64, 0xRRGGBB; raises UnreadableImageError."""
    return _read(picture, _as_shown)


def colours_of_values(file: Path) -> np.ndarray:
    """(256,) of int64: the visible colour 0xRRGGBB of each value in a mask file, or `NO_COLOUR`.

    Raises UnreadableImageError.
    """
    return _read(file, _colour_table)


def values_by_colour(colours: np.ndarray, values: Mapping[int, int]) -> np.ndarray:
    """The value (H, W) of uint8 of each colour; raises UnreadableImageError for a colour without a value."""
    shown, where = np.unique(colours, return_inverse=True)
    strange = [f"#{colour:06x}" for colour in shown.tolist() if colour not in values]
    if strange:
        raise UnreadableImageError(f"no class has the colours {', '.join(strange[:5])}")
    found: np.ndarray = np.array([values[colour] for colour in shown.tolist()], np.uint8)[where]
    return found.reshape(colours.shape)


def _as_shown(image: Any) -> np.ndarray:
    shown = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
    if (values := np.asarray(shown)).ndim == 2:
        colours: np.ndarray = _colour_table(shown)[_small(values)]
        if (colours == NO_COLOUR).any():
            raise UnreadableImageError("transparent pixels have no class; save it without transparency")
        return colours
    return _packed(_opaque(np.asarray(shown.convert("RGBA"))))


def _colour_table(image: Image.Image) -> np.ndarray:
    greys = np.arange(256, dtype=np.int64) * 0x010101
    if image.mode != "P":
        return np.where(greys > 0, 0xFFFFFF, 0) if image.mode == "1" else greys
    pixel = image.crop((0, 0, 1, 1))  # with a palette of its own, which may change
    pixel.apply_transparency()
    entries = np.array(pixel.getpalette("RGBA"), np.int64).reshape(-1, 4)
    table = np.full(256, NO_COLOUR, np.int64)
    table[: len(entries)] = np.where(entries[:, 3] == 255, _packed(entries[:, :3]), NO_COLOUR)
    return table


def _packed(colours: np.ndarray) -> np.ndarray:
    """Colours (…, 3) as int64, 0xRRGGBB."""
    packed: np.ndarray = colours.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    return packed


def _opaque(colours: np.ndarray) -> np.ndarray:
    """The colours (H, W, 3) without alpha; all pixels must be opaque."""
    if colours.shape[2] == 4 and not (colours[..., 3] == 255).all():
        raise UnreadableImageError("transparent pixels have no class; save it without transparency")
    return colours[..., :3]


def _read(picture: Picture, take: Callable[[Any], np.ndarray]) -> np.ndarray:
    """Apply `take` to an array, an item of a data set, or an open file."""
    try:
        if isinstance(picture, np.ndarray):
            return take(picture)
        if isinstance(picture, Item):
            return take(picture.value())
        if isinstance(picture, Path) and not picture.is_file():
            raise UnreadableImageError("not a regular file")
        with Image.open(stream_of(picture), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise UnreadableImageError(f"more than {MOST_PIXELS:,} pixels")
            return take(image)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError(f"not a lossless file ({', '.join(FORMATS)})") from None
    except Exception as error:
        raise UnreadableImageError(reason(error)) from error
