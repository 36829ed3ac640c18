"""Images with their predictions, and pictures encoded for a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True, eq=False)
class Shot:
    """An image (size, size, 3 or 1) of uint8, its number in the split, both labels, and `predicted`'s probability."""

    number: int
    name: str
    true: str
    predicted: str
    p: float
    pixels: np.ndarray


@dataclass(frozen=True, eq=False)
class Masked:
    """An image (size, size, 3 or 1) of uint8 with its true and its predicted mask (size, size): class numbers of uint8.

    255 is ignored. iou: the mean over the classes in either mask, 0 … 1.
    """

    name: str
    iou: float
    pixels: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


def encoded(picture: np.ndarray, side: int) -> str:
    """A picture as a small JPEG in base64, without the metadata of the original file."""
    image, content = Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture), io.BytesIO()
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    image.save(content, "JPEG", quality=80)
    return base64.b64encode(content.getvalue()).decode("ascii")
