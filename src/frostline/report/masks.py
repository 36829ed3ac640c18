"""Masks as PNG files: the class number of every pixel, with a palette so that viewers show colours."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from frostline.errors import MachineError
from frostline.files import write_atomically


def write_mask(folder: Path, name: str, mask: np.ndarray, colours: np.ndarray) -> Path:
    """Write a mask as `folder/STEM.png` and return its path; a number is added if that name is taken.

    mask: class numbers (H, W) of uint8. They are indices into the file's palette, the colours (classes, 3) of uint8.
    Raises MachineError if it cannot be written.
    """
    image = Image.fromarray(mask)
    image.putpalette(colours.tobytes())
    content = io.BytesIO()
    image.save(content, "PNG")
    stem = Path(name).stem or "mask"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{stem}.png"
        number = 2
        while file.exists():
            file = folder / f"{stem}-{number}.png"
            number += 1
        write_atomically(file, content.getvalue())
    except OSError as error:
        raise MachineError(f"cannot write masks to {folder}: {error.strerror}") from error
    return file
