"""Augmentation: presets of random crops, shifts, flips, rotations and colour changes.

The name of a view alone seeds its random numbers. Any thread can repeat them, for the image and for its mask.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageEnhance, ImageOps

from frostline.errors import UsageError, unknown
from frostline.preprocessing import Box

Function = Callable[[Image.Image], Image.Image]  # your own: an RGB image in, another one out


@dataclass(frozen=True)
class Augmentation:
    """The random changes that a view may make to an image.

        Augmentation(padding=1 / 8, mirror=True)  # RandomCrop(32, padding=4) and RandomHorizontalFlip()

    area: smallest share of the image that a view shows (above 0, at most 1). stretch: largest change of its aspect
        ratio (>= 1). With 1 and 1 a view has the crop of evaluation.
    padding: largest shift in each direction, as a share of the sides (0 … 0.5), by whole pixels of the image; pixels
        beyond the image are black.
    mirror: flip half of the views horizontally. degrees: largest rotation, either way (0 … 180).
    colour: largest change of brightness, contrast and saturation, as a share (0 … 1).

    Raises UsageError for other values.
    """

    area: float = 1.0
    stretch: float = 1.0
    mirror: bool = False
    degrees: float = 0.0
    colour: float = 0.0
    padding: float = 0.0

    def __post_init__(self) -> None:
        for name, right, holds in (
            ("area", "above 0, at most 1", 0 < self.area <= 1),
            ("stretch", "at least 1", 1 <= self.stretch < math.inf),
            ("degrees", "0 … 180", 0 <= self.degrees <= 180),
            ("colour", "0 … 1", 0 <= self.colour <= 1),
            ("padding", "0 … 0.5", 0 <= self.padding <= 0.5),
        ):
            if not holds:
                raise UsageError(f"Augmentation has {name}={getattr(self, name)!r}; it must be {right}")


@dataclass(frozen=True)
class Variant:
    """One view of one image: the box that is shown, and the changes to it."""

    box: Box
    mirrored: bool = False
    degrees: float = 0.0
    colours: tuple[float, float, float] = (1.0, 1.0, 1.0)  # factors of brightness, contrast, saturation


NONE = Augmentation()
PRESETS = {
    "none": NONE,
    "light": Augmentation(area=0.5, stretch=4 / 3, mirror=True),
    "crop": Augmentation(padding=1 / 8),
    "standard": Augmentation(area=0.35, stretch=4 / 3, mirror=True, degrees=10, colour=0.3),
    "digits": Augmentation(area=0.8, stretch=1.12, degrees=10),  # writing loses its meaning in a mirror
}


def preset(name: str) -> Augmentation:
    """An augmentation by name; raises UsageError, with the nearest names, for an unknown name."""
    if name not in PRESETS:
        raise unknown("augmentation", name, ["auto", *PRESETS])
    return PRESETS[name]


def drawn(augmentation: Augmentation, name: bytes, size: tuple[int, int], plain: Box) -> Variant:
    """The variant of an image of `size` (width, height), drawn from the name of its view.

    plain: the box that evaluation shows; it is used if the augmentation does not crop.
    """
    chance = random.Random(name)  # noqa: S311
    crops = augmentation.area < 1 or augmentation.stretch > 1
    box = _box(chance, size, augmentation) if crops else plain
    if augmentation.padding:
        box = _shifted(chance, box, augmentation.padding)
    mirrored = augmentation.mirror and chance.random() < 0.5
    degrees = chance.uniform(-augmentation.degrees, augmentation.degrees)
    most = augmentation.colour
    brightness, contrast, saturation = (1 + chance.uniform(-most, most) for _ in range(3))
    return Variant(box, mirrored, degrees, (brightness, contrast, saturation))


def _shifted(chance: random.Random, box: Box, padding: float) -> Box:
    """The box shifted by whole pixels, so that an image at its original size stays sharp."""
    left, top, right, bottom = box
    across, down = (
        chance.randint(-most, most) for most in (round(padding * (right - left)), round(padding * (bottom - top)))
    )
    return left + across, top + down, right + across, bottom + down


def turned(image: Image.Image, variant: Variant, fill: int = 0) -> Image.Image:
    """The shown box (RGB, or L for a mask), flipped and rotated; empty corners are filled."""
    if variant.mirrored:
        image = ImageOps.mirror(image)
    if variant.degrees:
        smooth = Image.Resampling.NEAREST if image.mode == "L" else Image.Resampling.BILINEAR
        image = image.rotate(variant.degrees, smooth, fillcolor=fill if image.mode == "L" else (fill,) * 3)
    return image


def coloured(image: Image.Image, variant: Variant) -> Image.Image:
    """The shown box (RGB) with the colour changes of its variant."""
    brightness, contrast, saturation = variant.colours
    if variant.colours != (1.0, 1.0, 1.0):
        image = ImageEnhance.Brightness(image).enhance(brightness)
        image = ImageEnhance.Contrast(image).enhance(contrast)
        image = ImageEnhance.Color(image).enhance(saturation)
    return image


def _box(chance: random.Random, size: tuple[int, int], augmentation: Augmentation) -> Box:
    """A box with between `area` and all of the image, and a nearly square aspect ratio."""
    width, height = size
    stretch = math.log(augmentation.stretch)
    for _ in range(10):
        shown = width * height * chance.uniform(augmentation.area, 1.0)
        ratio = math.exp(chance.uniform(-stretch, stretch))
        w, h = math.sqrt(shown * ratio), math.sqrt(shown / ratio)
        if w <= width and h <= height:
            break
    else:
        w = h = float(min(width, height))
    left, top = chance.uniform(0, width - w), chance.uniform(0, height - h)
    return left, top, left + w, top + h
