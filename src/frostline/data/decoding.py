"""From a file or an array to the right RGB pixels, the same everywhere: training, validation, prediction.

Upright by EXIF; grey, palette and CMYK converted by value; transparency laid on white; first frame of many.

Grey of more than 8 bits keeps its upper 8: of as many bits as the file says (PGM, TIFF with MaxSampleValue), else of
8, 10, 12, 14 or 16, the least that holds the largest value of the picture. So the 12 bits of a camera in a file of 16
are seen. Values below 0 or above 65,535 are refused: nobody knows what they stand for. Whole numbers 0 and 1 in an
array are black and white. (Colours of 16 bits are read by Pillow, which keeps the upper 8 of 16.)
"""

from __future__ import annotations

import contextlib
import io
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError, features

from frostline.errors import reason


@dataclass(frozen=True)
class Item:
    """One picture of somebody's data set, read when it is needed: `source[index][field]`."""

    source: Any
    index: int
    field: int | str

    def read(self) -> Image.Image | np.ndarray:
        """A PIL image, or an (H, W) or (H, W, 3) array of uint8; raises UnreadableImageError for anything else."""
        picture = self.value()
        return picture if isinstance(picture, Image.Image) else as_uint8(picture)

    def value(self) -> Any:
        """What the data set gives, read by one thread at a time: many keep one open file, and torch asks no more."""
        with _one_reader[id(self.source) // 64 % len(_one_reader)]:
            value = self.source[self.index][self.field]
            if isinstance(value, Image.Image):
                value.load()  # an image may still have to be read from that file
        return value


_one_reader = [threading.RLock() for _ in range(64)]  # each source has one of them, that nobody has to keep for it


Picture = Path | np.ndarray | Item  # a file, an (H, W) or (H, W, 3) array of uint8, or one of somebody's data set

PHONES = {".heic": "HEIF", ".heif": "HEIF", ".avif": "AVIF"}  # formats that a package of their own may read
MOST_PIXELS = 100_000_000  # more is refused from the header, before anything is decoded
DEPTHS = (8, 10, 12, 14, 16)  # bits of a grey picture
MAX_SAMPLE_VALUE = 281  # the TIFF tag
DECODER = f"pillow-{PIL.__version__}/3"  # part of every store's key: other pixels, other activations


def _phones() -> tuple[str, ...]:
    """The formats of phones that can be read here: AVIF where Pillow was built with it, HEIF where pillow-heif is."""
    knows = "avif" in features.modules  # Pillow 11.3 and later; of others `check` warns
    found = ["AVIF"] if knows and features.check("avif") else []
    with contextlib.suppress(ImportError):
        import pillow_heif  # type: ignore[import-not-found]  # not one of ours

        pillow_heif.register_heif_opener()
        found.append("HEIF")
    return tuple(found)


READ = _phones()
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", *READ)
SUFFIXES = (  # torchvision's ImageFolder
    *(".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"),
    *(ending for ending, kind in PHONES.items() if kind in READ),
)


def hint_for(name: str) -> str:
    """What reads a file of a phone's format that nothing here reads; "" for any other name.

    >>> hint_for("cat.jpg")
    ''
    """
    kind = PHONES.get(Path(name).suffix.lower())
    if kind is None or kind in READ:
        return ""
    return "pip install pillow-heif reads it" if kind == "HEIF" else "a newer Pillow reads it"


class UnreadableImageError(Exception):
    """Why one image cannot be used, in a few words.

    Whoever meets it leaves the image out and names it; `data/unreadable.py` says how many of them are too many.
    """


def open_image(picture: Picture) -> Image.Image:
    """The picture as an upright RGB image; raises UnreadableImageError with the reason."""
    return open_reduced(picture)[0]


def size_of(picture: Picture) -> tuple[int, int] | None:
    """Width and height as a file states them, or an array has them; None where that takes decoding, or nothing does."""
    if isinstance(picture, np.ndarray):
        return picture.shape[1], picture.shape[0]
    if not isinstance(picture, Path):
        return None
    try:
        with Image.open(picture, formats=FORMATS) as stored:
            return stored.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def open_reduced(picture: Picture | bytes, shorter: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """The same, and the size (width, height) that it has in full; of a file also by what it holds.

    shorter: the pixels that the shorter side should keep, None for all. A JPEG that has twice that or more is decoded
        at 1/2, 1/4 or 1/8 of its size, many times faster: its decoder averages what a resize would average.
    """
    try:
        if isinstance(picture, Item):
            item = picture.read()
            image = _from_array(item) if isinstance(item, np.ndarray) else to_rgb(upright(item))
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
            image = to_rgb(upright(stored), _stated_bits(stored))
            return image, full if image.size == stored.size else full[::-1]
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        hint = hint_for(str(picture)) if isinstance(picture, Path) else ""
        raise UnreadableImageError("not an image of a known format" + (f"; {hint}" if hint else "")) from None
    except Image.DecompressionBombError:
        raise UnreadableImageError(f"more than {MOST_PIXELS:,} pixels") from None
    except Exception as error:
        raise UnreadableImageError(reason(error)) from error


def thumbnail(picture: Picture, longer: int = 112) -> bytes:
    """A small JPEG of a picture, its longer side so many pixels; empty where it cannot be read."""
    try:
        small = open_reduced(picture, longer)[0]
    except UnreadableImageError:
        return b""
    small.thumbnail((longer, longer))
    content = io.BytesIO()
    small.convert("RGB").save(content, "JPEG", quality=85)
    return content.getvalue()


def as_uint8(values: Any) -> np.ndarray:
    """Pixels of an array or tensor as (H, W) or (H, W, 3) of uint8; channels may come first.

    Floats are 0 … 1, or 0 … 255 where all are whole; whole numbers 0 … 255, or of uint16 grey levels as in a file;
    truth values, and whole numbers that are 0 and 1 only, are black and white.
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
        black_and_white = (array.min(), array.max()) == (0, 1)
        return np.where(array, 255, 0).astype(np.uint8) if black_and_white else array.astype(np.uint8)
    if array.dtype == np.uint16 and array.size:
        return _upper_8_bits(array)
    if np.issubdtype(array.dtype, np.floating) and array.size:
        low, high = float(array.min()), float(array.max())
        if low >= 0 and 1 < high <= 255 and (array == np.rint(array)).all():
            return array.astype(np.uint8)  # what was normalised has no whole numbers
        if not 0 <= low <= high <= 1:
            raise UnreadableImageError(
                f"floats from {low:g} to {high:g}; give 0 … 1, not yet normalised, or whole numbers 0 … 255"
            )
        array = np.rint(array * 255).astype(np.uint8)
    return array


def upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return image


def _from_array(array: np.ndarray) -> Image.Image:
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))  # the fourth is how opaque it is
    if array.dtype.kind == "f":
        as_uint8(array)  # which says what is wrong with their range
    if array.dtype != np.uint8 or not shaped or array.size == 0:
        raise UnreadableImageError(f"an array {array.shape} of {array.dtype}; give (H, W) or (H, W, 3) of uint8")
    return to_rgb(Image.fromarray(array))


def _stated_bits(stored: Image.Image) -> int | None:
    """How many bits of grey a file says it holds, where it says so."""
    if stored.format == "PPM":  # Pillow spreads the values up to the maximum that a file names over all 16 bits
        return 16
    most = getattr(stored, "tag_v2", {}).get(MAX_SAMPLE_VALUE)
    most = most[0] if isinstance(most, tuple) else most
    return max(8, most.bit_length()) if isinstance(most, int) else None


def _upper_8_bits(values: np.ndarray, bits: int | None = None) -> np.ndarray:
    """Grey levels of that many bits, else of as many as their largest takes, as uint8."""
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high > 65_535:
        raise UnreadableImageError(
            f"grey values from {low:,} to {high:,} of unknown meaning; save them as 8 or 16 bits"
        )
    needed = next(depth for depth in DEPTHS if high < 1 << depth)
    levels: np.ndarray = (values.astype(np.int64) >> max(bits or 0, needed) - 8).astype(np.uint8)
    return levels


def to_rgb(image: Image.Image, bits: int | None = None) -> Image.Image:
    """An image of any mode in RGB; raises UnreadableImageError where nobody knows what its numbers stand for.

    bits: how many a grey level of a picture of 16 or 32 has; None for what the largest level takes.
    """
    if image.mode == "F":
        raise UnreadableImageError("floating-point pixels of unknown range")
    if image.mode.startswith("I"):
        return Image.fromarray(_upper_8_bits(np.asarray(image), bits)).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.new("RGBA", rgba.size, "white")
        image.alpha_composite(rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def is_grey(rgb: Image.Image) -> bool:
    """Whether an RGB image shows no colours, however it was saved: a grid of its pixels tells."""
    grid = np.asarray(rgb.resize((24, 24), Image.Resampling.NEAREST))
    return bool((grid == grid[..., :1]).all())
