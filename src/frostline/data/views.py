"""Views: repeatable augmented variants of an image.

A view is decided by (seed, image, view number) alone, so what a frozen network makes of it can be stored. View 0 is
the image as it is evaluated. The others show a random part of it, mirrored half of the time if it has colours: what
comes in grey is writing or a measurement more often than a photograph, and loses its meaning in a mirror.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

from frostline.data.decoding import Picture, open_image
from frostline.preprocessing import Box, Preprocessing

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Views:
    """How the training images are varied: `count` views an image, view 0 unchanged."""

    count: int = 1
    seed: int = 0
    photo_area: float = 0.5  # least share of a colour image that a view shows
    grey_area: float = 0.8
    most_stretch: float = 4 / 3

    def name(self, digest: bytes, view: int) -> bytes:
        """16 bytes that stand for the content of one view of one image; that of view 0 is the image's own."""
        if view == 0:
            return digest
        recipe = f"{self.seed} {view} {self.photo_area} {self.grey_area} {self.most_stretch}".encode()
        return hashlib.blake2b(digest + recipe, digest_size=16).digest()


PLAIN = Views()


def pixels(picture: Picture, digest: bytes, numbers: list[int], views: Views, how: Preprocessing) -> np.ndarray:
    """The given views of a picture as the network's input before normalisation: (V, size, size, 3) of uint8.

    Raises UnreadableImageError.
    """
    image, grey = open_image(picture)
    result = np.empty((len(numbers), how.size, how.size, 3), np.uint8)
    for row, number in zip(result, numbers, strict=True):
        box, mirrored = how.box(*image.size), False
        if number:
            chance = random.Random(views.name(digest, number))  # noqa: S311
            area = views.grey_area if grey else views.photo_area
            box = _random_box(chance, image.size, area, math.log(views.most_stretch) * (0.4 if grey else 1.0))
            mirrored = not grey and chance.random() < 0.5
        row[:] = _resized(image, box, how)[:, ::-1] if mirrored else _resized(image, box, how)
    return result


def _resized(image: Image.Image, box: Box, how: Preprocessing) -> np.ndarray:
    left, top, right, bottom = box
    if left < 0 or top < 0 or right > image.width or bottom > image.height:  # the crop is larger than the image: pad
        return _padded(image, box, how)
    return np.asarray(image.resize((how.size, how.size), FILTERS[how.interpolation], box))


def _padded(image: Image.Image, box: Box, how: Preprocessing) -> np.ndarray:
    left, top, right, bottom = box
    x, y = how.size / (right - left), how.size / (bottom - top)
    inner = (max(left, 0.0), max(top, 0.0), min(right, image.width), min(bottom, image.height))
    width, height = round((inner[2] - inner[0]) * x), round((inner[3] - inner[1]) * y)
    canvas = Image.new("RGB", (how.size, how.size))
    canvas.paste(
        image.resize((width, height), FILTERS[how.interpolation], inner),
        (round(-left * x) if left < 0 else 0, round(-top * y) if top < 0 else 0),
    )
    return np.asarray(canvas)


def _random_box(chance: random.Random, size: tuple[int, int], area: float, stretch: float) -> Box:
    """A box that shows between `area` and all of the image, its aspect ratio near the square that it becomes."""
    width, height = size
    for _ in range(10):
        shown = width * height * chance.uniform(area, 1.0)
        ratio = math.exp(chance.uniform(-stretch, stretch))
        w, h = math.sqrt(shown * ratio), math.sqrt(shown / ratio)
        if w <= width and h <= height:
            break
    else:
        w = h = float(min(width, height))
    left, top = chance.uniform(0, width - w), chance.uniform(0, height - h)
    return left, top, left + w, top + h
