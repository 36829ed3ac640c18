"""Pictures of images that a network has answered for, and pictures as a page holds them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True, eq=False)
class Shot:
    """An image (size, size, 3 or 1) of uint8 and its number in the split; its labels, and how sure the predicted is."""

    number: int
    name: str
    true: str
    predicted: str
    p: float
    pixels: np.ndarray


@dataclass(frozen=True, eq=False)
class Masked:
    """An image (size, size, 3 or 1) of uint8 with its true and its predicted mask (size, size): class numbers of uint8.

    255 counts for nothing. iou: the mean over the classes that are in either, 0 … 1.
    """

    name: str
    iou: float
    pixels: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


def encoded(picture: np.ndarray, side: int) -> str:
    """A picture as a small JPEG in base64: pixels only, nothing of what the file said beside them."""
    image, content = Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture), io.BytesIO()
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    image.save(content, "JPEG", quality=80)
    return base64.b64encode(content.getvalue()).decode("ascii")
