"""Masks: the class of every pixel of an image, as a picture of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from frostline.data.decoding import MOST_PIXELS, Item, Picture, UnreadableImageError
from frostline.errors import reason

FORMATS = ("PNG", "BMP", "GIF", "TIFF", "PPM")  # those that keep every number; JPEG does not
NOTHING = 255  # the class number of pixels that count for nothing: nobody knows what they show


@dataclass(frozen=True, eq=False)
class Masks:
    """A mask for each of some images.

    pictures: files or arrays (H, W) of uint8, one value a class. numbers: (256,), the class number of every value.
    """

    pictures: Sequence[Picture]
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, rows: Iterable[int]) -> Masks:
        return Masks([self.pictures[i] for i in rows], self.numbers)

    def read(self, i: int) -> Image.Image:
        """The class numbers of one mask as an image of mode L; raises UnreadableImageError."""
        return Image.fromarray(self.numbers[read_values(self.pictures[i])])


def read_values(picture: Picture) -> np.ndarray:
    """The values (H, W) of uint8 of a mask as they are in the file: of a palette its indices.

    Raises UnreadableImageError for colours: what they stand for is not in the file.
    """
    try:
        if isinstance(picture, np.ndarray):
            values = picture
        elif isinstance(picture, Item):
            values = np.asarray(picture.value())
        else:
            values = _from_file(picture)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError(f"not a {', '.join(FORMATS)} file, which keep every number") from None
    except Exception as error:
        raise UnreadableImageError(reason(error)) from error
    if values.ndim != 2:
        raise UnreadableImageError(f"a mask of shape {values.shape}; it must have one number per pixel (mode L or P)")
    if values.dtype.kind not in "biu":
        raise UnreadableImageError(f"mask values of {values.dtype}; whole numbers are wanted")
    if values.size and not 0 <= int(values.min()) <= int(values.max()) <= 255:
        raise UnreadableImageError(f"mask values from {values.min()} to {values.max()}; 0 … 255 are possible")
    return values.astype(np.uint8)


def _from_file(file: Path) -> np.ndarray:
    if not file.is_file():
        raise UnreadableImageError("not a regular file")
    with Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > MOST_PIXELS:
            raise UnreadableImageError(f"more than {MOST_PIXELS:,} pixels")
        return np.asarray(image)
