"""From a file or an array to the right RGB pixels, the same everywhere: training, validation, prediction.

Upright by EXIF; grey, palette, CMYK and 16-bit converted by value; transparency laid on white; first frame of many.
"""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError

from frostline.errors import reason

Picture = Path | np.ndarray  # a file, or an (H, W) or (H, W, 3) array of uint8

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's ImageFolder
MOST_PIXELS = 100_000_000  # more is refused from the header, before anything is decoded
DECODER = f"pillow-{PIL.__version__}/1"  # part of every store's key: other pixels, other activations


class UnreadableImageError(Exception):
    """Why one image cannot be used, in a few words. A run never ends because of one image."""


def open_image(picture: Picture) -> tuple[Image.Image, bool]:
    """The picture as an upright RGB image, and whether it came without colours.

    Raises UnreadableImageError with the reason.
    """
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    try:
        status = picture.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImageError("not a regular file")
        if status.st_size == 0:
            raise UnreadableImageError("empty file")
        with Image.open(picture, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise UnreadableImageError(f"{image.width} × {image.height} pixels, more than {MOST_PIXELS:,}")
            image.load()
            return to_rgb(_upright(image))
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError("not an image of a known format") from None
    except Image.DecompressionBombError:
        raise UnreadableImageError(f"more than {MOST_PIXELS:,} pixels") from None
    except Exception as error:
        raise UnreadableImageError(reason(error)) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return image


def _from_array(array: np.ndarray) -> tuple[Image.Image, bool]:
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if array.dtype != np.uint8 or not shaped or array.size == 0:
        raise UnreadableImageError(f"an array {array.shape} of {array.dtype}; (H, W) or (H, W, 3) of uint8 is wanted")
    return to_rgb(Image.fromarray(array))


def to_rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image in RGB, and whether it came without colours."""
    if image.mode == "F":
        raise UnreadableImageError("floating-point pixels of unknown range")
    if image.mode.startswith("I"):  # 16 bits, sometimes in a 32-bit container: keep the upper byte
        values = np.asarray(image).astype(np.int64)
        deep = image.mode != "I" or int(values.max(initial=0)) > 255
        return Image.fromarray((values >> 8 if deep else values).clip(0, 255).astype(np.uint8)).convert("RGB"), True
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.new("RGBA", rgba.size, "white")
        image.alpha_composite(rgba)
    rgb = image.convert("RGB")
    return rgb, is_grey(rgb)


def is_grey(rgb: Image.Image) -> bool:
    """Whether an RGB image shows no colours, however it was saved: a grid of its pixels tells."""
    grid = np.asarray(rgb.resize((24, 24), Image.Resampling.NEAREST))
    return bool((grid == grid[..., :1]).all())


def digest(picture: Picture) -> bytes:
    """16 bytes that stand for the content of a picture."""
    if isinstance(picture, np.ndarray):
        head = f"{picture.shape}{picture.dtype}".encode()
        return hashlib.blake2b(head + np.ascontiguousarray(picture).tobytes(), digest_size=16).digest()
    try:
        if not stat.S_ISREG(picture.stat().st_mode):  # reading a pipe would never end
            raise OSError("not a regular file")
        return hashlib.blake2b(picture.read_bytes(), digest_size=16).digest()
    except OSError as error:
        text = f"unreadable {picture} {error.errno}".encode("utf-8", "surrogateescape")
        return hashlib.blake2b(text, digest_size=16).digest()
