"""Pictures as a page holds them."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image


def encoded(picture: np.ndarray, side: int) -> str:
    """A picture as a small JPEG in base64: pixels only, nothing of what the file said beside them."""
    image, content = Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture), io.BytesIO()
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    image.save(content, "JPEG", quality=80)
    return base64.b64encode(content.getvalue()).decode("ascii")
