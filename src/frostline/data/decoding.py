"""Decode a file or an array to RGB pixels, in the same way for training, validation and prediction.

Images are turned upright by EXIF; grey, palette and CMYK are converted by value; transparency becomes white; of several
frames the first is read.

Grey with more than 8 bits keeps its upper 8 bits. The depth is the one that the file states (PGM, TIFF with
MaxSampleValue), else the smallest of 8, 10, 12, 14 and 16 that holds the largest value of the picture: so the 12 bits
of a camera in a 16-bit file stay visible. Values below 0 or above 65,535 are refused, because their meaning is unknown.
Whole numbers 0 and 1 in an array are black and white. (Pillow reads 16-bit colours and keeps the upper 8 bits.)
"""

from __future__ import annotations

import contextlib
import io
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError, features

from frostline.data.parts import Part
from frostline.data.room import PIXEL, Room, has_memory
from frostline.data.signatures import HEAD, kind_of
from frostline.errors import MachineError, UsageError, reason


@dataclass(frozen=True)
class Item:
    """One picture of a user's data set, read on demand: `source[index][field]`."""

    source: Any
    index: int
    field: int | str

    def read(self) -> Image.Image | np.ndarray:
        """A PIL image, or an (H, W) or (H, W, 3) array of uint8; raises UnreadableImageError for anything else."""
        picture = self.value()
        return picture if isinstance(picture, Image.Image) else as_uint8(picture)

    def value(self) -> Any:
        """The value in the data set. One thread reads at a time, because many data sets share one open file."""
        with _one_reader[id(self.source) // 64 % len(_one_reader)]:
            value = self.source[self.index][self.field]
            if isinstance(value, Image.Image):
                value.load()  # PIL may not have read the file yet
        return value


_one_reader = [threading.RLock() for _ in range(64)]  # each source maps to one lock, so none has to be kept per source


# a file, a part of a file somewhere, the content of a file, an (H, W) or (H, W, 3) array of uint8, or an item of a
# user's data set
Picture = Path | Part | bytes | np.ndarray | Item

PHONES = {".heic": "HEIF", ".heif": "HEIF", ".avif": "AVIF"}  # formats of phones; a separate package may read them
ADVICE = {"HEIF": "pip install pillow-heif adds support", "AVIF": "a newer Pillow adds support"}
MOST_PIXELS = 100_000_000  # larger images are refused by their header, before decoding
ROOM = Room(MOST_PIXELS)  # of all threads
START = 65_536  # bytes of a part of a file that mostly hold its header
STRIP = 256  # rows of an image with transparency that are mixed with white at once
DEPTHS = (8, 10, 12, 14, 16)  # bits of a grey picture
MAX_SAMPLE_VALUE = 281  # the TIFF tag
ORIENTATION = 0x0112  # the EXIF tag
DECODER = f"pillow-{PIL.__version__}/4"  # part of every store's key, because other pixels give other activations


def _phones() -> tuple[str, ...]:
    """The phone formats that can be read here: AVIF if Pillow was built with it, HEIF if pillow-heif is installed."""
    knows = "avif" in features.modules  # Pillow 11.3 and later; for other names `check` warns
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
    """How to make a phone's file readable, if its format is not; "" for any other name.

    >>> hint_for("cat.jpg")
    ''
    """
    kind = PHONES.get(Path(name).suffix.lower())
    return "" if kind is None or kind in READ else ADVICE[kind]


def refuse_address(text: str | Path) -> None:
    """Raises UsageError for a web address: only files are read, and nothing is downloaded unasked."""
    if str(text).lower().startswith(("http://", "https://")):
        scheme, _, rest = str(text).partition("://")
        host, slash, path = rest.partition("?")[0].partition("#")[0].partition("/")
        shown = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"  # without a password or a signature
        raise UsageError(f"{shown} is a web address, but Frostline reads files; download it first: curl -O URL")


class UnreadableImageError(Exception):
    """The reason why one image cannot be used, in a few words.

    Callers skip the image and name it; `data/unreadable.py` decides how many are too many.
    """


def open_image(picture: Picture) -> Image.Image:
    """The picture as an upright RGB image; raises UnreadableImageError with the reason."""
    return open_reduced(picture)[0]


def size_of(picture: Picture) -> tuple[int, int] | None:
    """Width and height from a file's header or an array's shape; None if unreadable, or only known after decoding."""
    if isinstance(picture, np.ndarray):
        return picture.shape[1], picture.shape[0]
    if isinstance(picture, Item):
        return None
    try:
        if isinstance(picture, Part) and (size := size_of(picture.read(START))):
            return size
        with Image.open(stream_of(picture), formats=FORMATS) as stored:
            return stored.size
    except MachineError:
        raise
    except Exception:  # decoders raise what they like; decoding will meet the same error and report it
        return None


def open_reduced(picture: Picture, shorter: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """The picture like `open_image`, and its full size (width, height).

    shorter: the pixels that the shorter side should keep, None for all. A JPEG with at least twice as many is decoded
        at 1/2, 1/4 or 1/8 of its size. That is many times faster: the decoder averages pixels as a resize would.
    """
    with opened(picture, shorter) as found:
        return found


@contextlib.contextmanager
def opened(picture: Picture, shorter: int | None = None) -> Iterator[tuple[Image.Image, tuple[int, int]]]:
    """What `open_reduced` returns, for use in this context: all threads together hold at most `MOST_PIXELS` in it.

    Raises UnreadableImageError, and MachineError if there is too little memory for an image of that size.
    """
    with contextlib.ExitStack() as held:
        yield _opened(picture, shorter, held)


def _opened(picture: Picture, shorter: int | None, held: contextlib.ExitStack) -> tuple[Image.Image, tuple[int, int]]:
    pixels = 0  # to be decoded
    try:
        if isinstance(picture, Item):
            item = picture.read()
            image = _from_array(item) if isinstance(item, np.ndarray) else to_rgb(upright(item))
            return image, image.size
        if isinstance(picture, np.ndarray):
            image = _from_array(picture)
            return image, image.size
        if isinstance(picture, Part):
            picture = picture.read()
        _refuse_other_files(picture)
        with Image.open(stream_of(picture), formats=FORMATS) as stored:
            full = stored.size
            if full[0] * full[1] > MOST_PIXELS:
                raise UnreadableImageError(f"{full[0]} × {full[1]} pixels, more than {MOST_PIXELS:,}")
            if shorter is not None:
                stored.draft(None, (shorter, shorter))
            pixels = stored.width * stored.height
            held.enter_context(ROOM.of(pixels))
            stored.load()
            image = to_rgb(upright(stored), _stated_bits(stored))
            return image, full if image.size == stored.size else full[::-1]
    except (UnreadableImageError, MachineError):
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError("not an image of a known format" + _looks(picture)) from None
    except Image.DecompressionBombError:
        raise UnreadableImageError(f"more than {MOST_PIXELS:,} pixels") from None
    except FileNotFoundError as error:
        raise UnreadableImageError(f"no such file: {error.filename}") from None
    except MemoryError:
        raise _too_little(pixels) from None
    except Exception as error:
        raise UnreadableImageError(reason(error)) from error


def _refuse_other_files(picture: Path | bytes) -> None:
    """Raises UnreadableImageError for a pipe or a folder, which are never opened, and for an empty file."""
    if isinstance(picture, Path):
        status = picture.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImageError("not a regular file")
    if (len(picture) if isinstance(picture, bytes) else status.st_size) == 0:
        raise UnreadableImageError("empty file")


def _looks(picture: Picture) -> str:
    """What a file that is no image looks like, for the end of a message; "" if nothing is known."""
    name = str(picture) if isinstance(picture, Path) else ""
    head = picture[:HEAD] if isinstance(picture, bytes) else b""
    if name:
        with contextlib.suppress(OSError), Path(name).open("rb") as stream:
            head = stream.read(HEAD)
    kind = kind_of(head, "" if "HEIF" in READ else ADVICE["HEIF"])
    hint = hint_for(name)
    return f": it looks like {kind}" if kind else f"; {hint}" if hint else ""


def _too_little(pixels: int) -> Exception:
    """The error of an image for which the memory did not suffice: the machine's fault, or that of the file."""
    if has_memory(PIXEL * pixels):
        return UnreadableImageError("decoding takes much more memory than an image of its size")
    return MachineError(
        f"too little memory to decode an image of {pixels / 1e6:.0f} million pixels; close other programs, give "
        "--workers 1, or make the image smaller"
    )


def stream_of(picture: Path | Part | bytes) -> Path | io.BytesIO:
    """What Pillow can open."""
    picture = picture.read() if isinstance(picture, Part) else picture
    return io.BytesIO(picture) if isinstance(picture, bytes) else picture


def thumbnail(picture: Picture, longer: int = 112) -> bytes:
    """A small JPEG of a picture with a longer side of that many pixels; empty if it cannot be read."""
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

    Floats are 0 … 1, or 0 … 255 if all are whole; integers are 0 … 255, or grey levels of uint16 as in a file;
    booleans, and integers that are all 0 or 1, are black and white.
    Raises UnreadableImageError for other ranges: normalised pixels cannot be normalised again.
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
            return array.astype(np.uint8)  # normalised pixels are not whole numbers
        if not 0 <= low <= high <= 1:
            raise UnreadableImageError(
                f"floats from {low:g} to {high:g}; give 0 … 1 before normalisation, or whole numbers 0 … 255"
            )
        array = np.rint(array * 255).astype(np.uint8)
    return array


def upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF says that it is to be seen; without a copy if it lies that way."""
    try:
        return image if image.getexif().get(ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return image


def _from_array(array: np.ndarray) -> Image.Image:
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))  # the fourth channel is alpha
    if array.dtype.kind == "f":
        as_uint8(array)  # raises the error about the range
    if array.dtype != np.uint8 or not shaped or array.size == 0:
        raise UnreadableImageError(f"an array {array.shape} of {array.dtype}; give (H, W) or (H, W, 3) of uint8")
    return to_rgb(Image.fromarray(array))


def _stated_bits(stored: Image.Image) -> int | None:
    """The number of bits of grey that a file states, if any."""
    if stored.format == "PPM":  # Pillow scales the values of such a file to all 16 bits
        return 16
    most = getattr(stored, "tag_v2", {}).get(MAX_SAMPLE_VALUE)
    most = most[0] if isinstance(most, tuple) else most
    return max(8, most.bit_length()) if isinstance(most, int) else None


def _upper_8_bits(values: np.ndarray, bits: int | None = None) -> np.ndarray:
    """Grey levels as uint8. bits: their depth; None for the depth that the largest level needs."""
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high > 65_535:
        raise UnreadableImageError(
            f"grey values from {low:,} to {high:,} of unknown meaning; save them as 8 or 16 bits"
        )
    needed = next(depth for depth in DEPTHS if high < 1 << depth)
    levels: np.ndarray = (values >> max(bits or 0, needed) - 8).astype(np.uint8)
    return levels


def to_rgb(image: Image.Image, bits: int | None = None) -> Image.Image:
    """An image of any mode as RGB; raises UnreadableImageError if the meaning of its numbers is unknown.

    bits: the depth of grey levels in a picture of 16 or 32 bits; None for the depth that the largest level needs.
    """
    if image.mode == "F":
        raise UnreadableImageError("floating-point pixels of unknown range; save them as 8 or 16 bits")
    if image.mode.startswith("I"):
        return Image.fromarray(_upper_8_bits(np.asarray(image), bits)).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """An image with transparency on white, as RGB; strip by strip, because whole copies of it would take gigabytes."""
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, STRIP):
        rgba = image.crop((0, top, image.width, min(top + STRIP, image.height))).convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        white.alpha_composite(rgba)
        result.paste(white.convert("RGB"), (0, top))
    return result


def is_grey(rgb: Image.Image) -> bool:
    """Whether an RGB image shows no colours, judged by a grid of its pixels."""
    grid = np.asarray(rgb.resize((24, 24), Image.Resampling.NEAREST))
    return bool((grid == grid[..., :1]).all())
