"""How a view differs from its image: presets of random crops, shifts, mirrors, turns and colours.

What is drawn for a view is decided by its name alone, so that it can be drawn again: by any thread, for the image and
for its mask.
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
    """What may happen to an image in a view.

        Augmentation(padding=1 / 8, mirror=True)  # RandomCrop(32, padding=4) and RandomHorizontalFlip()

    area: least share of the image that a view shows (above 0, at most 1). stretch: most that its sides are stretched
        (>= 1). With 1 and 1 a view shows what evaluation does.
    padding: most that what is shown is moved in each direction, by whole pixels of the image, as a share of its sides
        (0 … 0.5); what lies beyond the image is black.
    mirror: left and right are exchanged in half of the views. degrees: most that it is turned, either way (0 … 180).
    colour: most that brightness, contrast and saturation change, as a share (0 … 1).

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
                raise UsageError(f"{name} of an augmentation is {getattr(self, name)!r}; it must be {right}")


@dataclass(frozen=True)
class Variant:
    """What happens to one image in one view: the part of it that is shown, and what is done to that."""

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
    """An augmentation by name; raises UsageError, with the nearest names, for one that is none."""
    if name not in PRESETS:
        raise unknown("augmentation", name, ["auto", *PRESETS])
    return PRESETS[name]


def drawn(augmentation: Augmentation, name: bytes, size: tuple[int, int], plain: Box) -> Variant:
    """The variant of an image of `size` (width, height) that the name of its view decides.

    plain: the box that evaluation shows, kept where the augmentation does not crop.
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
    """The box moved by whole pixels, so that an image shown in its own size stays sharp."""
    left, top, right, bottom = box
    across, down = (
        chance.randint(-most, most) for most in (round(padding * (right - left)), round(padding * (bottom - top)))
    )
    return left + across, top + down, right + across, bottom + down


def turned(image: Image.Image, variant: Variant, fill: int = 0) -> Image.Image:
    """A shown part (RGB, or the L of a mask) mirrored and turned; corners that come in are filled."""
    if variant.mirrored:
        image = ImageOps.mirror(image)
    if variant.degrees:
        smooth = Image.Resampling.NEAREST if image.mode == "L" else Image.Resampling.BILINEAR
        image = image.rotate(variant.degrees, smooth, fillcolor=fill if image.mode == "L" else (fill,) * 3)
    return image


def coloured(image: Image.Image, variant: Variant) -> Image.Image:
    """A shown part (RGB) in the colours of its variant."""
    brightness, contrast, saturation = variant.colours
    if variant.colours != (1.0, 1.0, 1.0):
        image = ImageEnhance.Brightness(image).enhance(brightness)
        image = ImageEnhance.Contrast(image).enhance(contrast)
        image = ImageEnhance.Color(image).enhance(saturation)
    return image


def _box(chance: random.Random, size: tuple[int, int], augmentation: Augmentation) -> Box:
    """A box that shows between `area` and all of the image, its aspect ratio near the square that it becomes."""
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
