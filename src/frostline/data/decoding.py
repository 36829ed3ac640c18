"""From a file or an array to the right RGB pixels, the same everywhere: training, validation, prediction.

Upright by EXIF; grey, palette, CMYK and 16-bit converted by value; transparency laid on white; first frame of many.
"""

from __future__ import annotations

import io
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError

from frostline.errors import reason


@dataclass(frozen=True)
class Item:
    """One picture of somebody's data set, read when it is needed: `source[index][field]`."""

    source: Any
    index: int
    field: int | str

    def read(self) -> Image.Image | np.ndarray:
        """A PIL image, or an (H, W) or (H, W, 3) array of uint8; raises UnreadableImageError for anything else."""
        found = self.value()
        return found if isinstance(found, Image.Image) else as_uint8(found)

    def value(self) -> Any:
        """What the data set gives, read by one thread at a time: many keep one open file, and torch asks no more."""
        with _one_reader[id(self.source) // 64 % len(_one_reader)]:
            found = self.source[self.index][self.field]
            if isinstance(found, Image.Image):
                found.load()  # an image may still have to be read from that file
        return found


_one_reader = [threading.RLock() for _ in range(64)]  # each source has one of them, that nobody has to keep for it


Picture = Path | np.ndarray | Item  # a file, an (H, W) or (H, W, 3) array of uint8, or one of somebody's data set

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's ImageFolder
MOST_PIXELS = 100_000_000  # more is refused from the header, before anything is decoded
DECODER = f"pillow-{PIL.__version__}/2"  # part of every store's key: other pixels, other activations


class UnreadableImageError(Exception):
    """Why one image cannot be used, in a few words. A run never ends because of one image."""


def open_image(picture: Picture) -> Image.Image:
    """The picture as an upright RGB image; raises UnreadableImageError with the reason."""
    return open_reduced(picture)[0]


def open_reduced(picture: Picture | bytes, shorter: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """The same, and the size (width, height) that it has in full; of a file also by what it holds.

    shorter: the pixels that the shorter side should keep, None for all. A JPEG that has twice that or more is decoded
        at 1/2, 1/4 or 1/8 of its size, many times faster: its decoder averages what a resize would average.
    """
    try:
        if isinstance(picture, Item):
            item = picture.read()
            image = _from_array(item) if isinstance(item, np.ndarray) else to_rgb(_upright(item))
            return image, image.size
        if isinstance(picture, np.ndarray):
            image = _from_array(picture)
            return image, image.size
        if isinstance(picture, Path) and not stat.S_ISREG(picture.stat().st_mode):
            raise UnreadableImageError("not a regular file")
        if (len(picture) if isinstance(picture, bytes) else picture.stat().st_size) == 0:
            raise UnreadableImageError("empty file")
        with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture, formats=FORMATS) as stored:
            full = stored.size
            if full[0] * full[1] > MOST_PIXELS:
                raise UnreadableImageError(f"{full[0]} × {full[1]} pixels, more than {MOST_PIXELS:,}")
            if shorter is not None:
                stored.draft(None, (shorter, shorter))
            stored.load()
            image = to_rgb(_upright(stored))
            return image, full if image.size == stored.size else full[::-1]
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError("not an image of a known format") from None
    except Image.DecompressionBombError:
        raise UnreadableImageError(f"more than {MOST_PIXELS:,} pixels") from None
    except Exception as error:
        raise UnreadableImageError(reason(error)) from error


def as_uint8(values: Any) -> np.ndarray:
    """Pixels of an array or tensor as (H, W) or (H, W, 3) of uint8; channels may come first, floats are 0 … 1.

    Raises UnreadableImageError for other ranges: numbers that were normalised already cannot be prepared again.
    """
    array: np.ndarray = np.asarray(values)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if np.issubdtype(array.dtype, np.integer) and array.size and 0 <= array.min() <= array.max() <= 255:
        return array.astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating) and array.size:
        low, high = float(array.min()), float(array.max())
        if not 0 <= low <= high <= 1:
            raise UnreadableImageError(f"floats from {low:g} to {high:g}; 0 … 1 is wanted, not yet normalised")
        array = np.rint(array * 255).astype(np.uint8)
    return array


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return image


def _from_array(array: np.ndarray) -> Image.Image:
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if array.dtype != np.uint8 or not shaped or array.size == 0:
        raise UnreadableImageError(f"an array {array.shape} of {array.dtype}; (H, W) or (H, W, 3) of uint8 is wanted")
    return to_rgb(Image.fromarray(array))


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in RGB; raises UnreadableImageError where nobody knows what its numbers stand for."""
    if image.mode == "F":
        raise UnreadableImageError("floating-point pixels of unknown range")
    if image.mode.startswith("I"):  # 16 bits, sometimes in a 32-bit container: keep the upper byte
        values = np.asarray(image).astype(np.int64)
        deep = image.mode != "I" or int(values.max(initial=0)) > 255
        return Image.fromarray((values >> 8 if deep else values).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.new("RGBA", rgba.size, "white")
        image.alpha_composite(rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def is_grey(rgb: Image.Image) -> bool:
    """Whether an RGB image shows no colours, however it was saved: a grid of its pixels tells."""
    grid = np.asarray(rgb.resize((24, 24), Image.Resampling.NEAREST))
    return bool((grid == grid[..., :1]).all())
