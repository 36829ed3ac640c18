"""Views: repeatable augmented variants of an image.

A view depends on (seed, image, view number) only, so its activations can be stored. View 0 is the image as evaluation
sees it; `data/augment.py` defines the changes of the others.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from frostline.data.augment import PRESETS, Augmentation, Function, Variant, coloured, drawn, preset, turned
from frostline.data.decoding import Picture, UnreadableImageError, is_grey, open_image, open_reduced, opened
from frostline.data.images import spread
from frostline.data.masks import NOTHING, Masks
from frostline.errors import UsageError
from frostline.preprocessing import Box, Preprocessing

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
TINY = 96  # pixels per side, from Kolesnikov et al. (2020)
GAP = 2  # decoded pixels per shown pixel, in each direction; the default of Pillow's thumbnails
_one_function_at_a_time = threading.Lock()  # a function draws from the random generators of the process


@dataclass(frozen=True)
class Views:
    """The augmented views of the training images: `count` views per image, view 0 unchanged.

        train = activations(lower, images, Views(count=4, augment="light"))

    augment: the name of a preset ("none", "light", "crop", "standard", "digits"), an Augmentation, or a function from
        an RGB PIL image to another one, such as torchvision's v2.Compose. The function may draw from torch, numpy and
        random, which are seeded for each view. A function cannot be identified, so its views are never cached across
        runs. The default "digits" has small crops and rotations, which suit all images; "light" also flips
        horizontally, which suits most photographs and spoils writing. `suited(pictures)` gives the choice of `fit`.
    """

    count: int = 1
    seed: int = 0
    augment: str | Augmentation | Function = "digits"

    @property
    def recipe(self) -> Augmentation | Function:
        return preset(self.augment) if isinstance(self.augment, str) else self.augment

    @property
    def repeatable(self) -> bool:
        """Whether another run computes the same views."""
        return self.count == 1 or isinstance(self.recipe, Augmentation)

    def name(self, digest: bytes, view: int) -> bytes:
        """16 bytes that identify the content of one view of one image; view 0 has the digest of the image."""
        if view == 0:
            return digest
        recipe = self.recipe if isinstance(self.recipe, Augmentation) else "function"
        return hashlib.blake2b(digest + f"{self.seed} {view} {recipe}".encode(), digest_size=16).digest()


PLAIN = Views()


def suited(pictures: Sequence[Picture]) -> str:
    """The preset that suits a data set: "digits" if none of up to 16 of its pictures shows colours, else "light".

    Greyscale images are writing or measurements more often than photographs, and a flip would change their meaning.
    Unreadable pictures are skipped.
    """
    return "light" if any(_shows_colours(pictures[i]) for i in spread(len(pictures), 16)) else "digits"


def tiny(pictures: Sequence[Picture]) -> bool:
    """Whether the longer side is below 96 pixels in half of up to 16 pictures. Unreadable ones are skipped."""
    sides = [max(size) for i in spread(len(pictures), 16) if (size := _size_of(pictures[i]))]
    return bool(sides) and sorted(sides)[len(sides) // 2] < TINY


def _size_of(picture: Picture) -> tuple[int, int] | None:
    try:
        return open_reduced(picture, 1)[1]
    except UnreadableImageError:
        return None


def _shows_colours(picture: Picture) -> bool:
    try:
        return not is_grey(open_image(picture))
    except UnreadableImageError:
        return False


def pixels(
    picture: Picture, digest: bytes, numbers: list[int], views: Views, preprocessing: Preprocessing
) -> np.ndarray:
    """These views of a picture as input of the network before normalisation: (V, size, size, C) of uint8.

    A network of one channel gets grey images: the luma of ITU-R 601, as Pillow computes it.
    Raises UnreadableImageError.
    """
    mode = "RGB" if preprocessing.channels == 3 else "L"
    result = np.empty((len(numbers), preprocessing.size, preprocessing.size, preprocessing.channels), np.uint8)
    with contextlib.ExitStack() as held:
        plain, full = held.enter_context(
            opened(picture, _length(preprocessing.size / preprocessing.resize, preprocessing))
        )
        varied = plain
        if any(numbers) and plain.size != full:  # the pixels of a view must not depend on the other views in the call
            varied, _ = held.enter_context(opened(picture, _length_for_views(views, preprocessing)))
        for view, number in zip(result, numbers, strict=True):
            shown, size = varied if number else plain, full
            if number and not isinstance(views.recipe, Augmentation):
                shown = _varied(views.recipe, shown, views.name(digest, number))
                size = shown.size
            variant = _variant(views, digest, number, size, preprocessing)
            box = _scaled(variant.box, shown.width / size[0], shown.height / size[1])
            image = coloured(turned(_resized(shown, box, preprocessing), variant), variant)
            view[:] = np.asarray(image.convert(mode)).reshape(view.shape)
    return result


def _length_for_views(views: Views, preprocessing: Preprocessing) -> int | None:
    if not isinstance(views.recipe, Augmentation):
        return None  # a user's function may need the whole image
    return _length(
        min(preprocessing.size / preprocessing.resize, math.sqrt(views.recipe.area / views.recipe.stretch)),
        preprocessing,
    )


def _length(share: float, preprocessing: Preprocessing) -> int:
    """How many pixels of the shorter side are enough for a view that shows this share of the image."""
    return math.ceil(GAP * preprocessing.size / share)


def _scaled(box: Box, x: float, y: float) -> Box:
    left, top, right, bottom = box
    return left * x, top * y, right * x, bottom * y


def mask_pixels(
    masks: Masks, i: int, digest: bytes, numbers: list[int], views: Views, preprocessing: Preprocessing
) -> np.ndarray:
    """The mask of each of these views: class numbers (V, size, size), `NOTHING` beyond the image.

    Raises UnreadableImageError, and UsageError for a function, because its shifts are unknown.
    """
    if any(numbers) and not isinstance(views.recipe, Augmentation):
        raise UsageError(f"segmentation needs augment to be one of {', '.join(PRESETS)}, or an Augmentation")
    mask = masks.read(i)
    nearest = Image.Resampling.NEAREST
    variants = [_variant(views, digest, number, mask.size, preprocessing) for number in numbers]
    return np.stack(
        [np.asarray(turned(_resized(mask, v.box, preprocessing, nearest, NOTHING), v, NOTHING)) for v in variants]
    )


def _variant(views: Views, digest: bytes, number: int, size: tuple[int, int], preprocessing: Preprocessing) -> Variant:
    plain = preprocessing.box(*size)
    if number and isinstance(views.recipe, Augmentation):
        return drawn(views.recipe, views.name(digest, number), size, plain)
    return Variant(plain)


def _varied(function: Function, image: Image.Image, name: bytes) -> Image.Image:
    """The result of a user's function on an image, with its randomness seeded by the name of the view."""
    import torch  # takes seconds, and a process that only decodes plain images does without

    seed = int.from_bytes(name[:4], "big")
    with _one_function_at_a_time, torch.random.fork_rng(devices=[]):
        states = random.getstate(), np.random.get_state()
        try:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the accelerators too
            random.seed(seed)
            np.random.seed(seed)
            result = function(image.copy())
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
    if not isinstance(result, Image.Image):
        raise UsageError(
            f"augment returned a {type(result).__name__} instead of a PIL image; leave out ToTensor and Normalize: "
            "the backbone's own preprocessing follows"
        )
    return result.convert("RGB")


def resampled(image: Image.Image, size: tuple[int, int], smooth: Image.Resampling, box: Box) -> Image.Image:
    """The box of an image at another size: first all rows, then all columns.

    Pillow does the same, but from version 13 on it starts with the columns of some images. Its pixels are whole numbers
    between the two, so that the same image would get other probabilities from another version, or from a graph.
    """
    if smooth == Image.Resampling.NEAREST:
        return image.resize(size, smooth, box)
    left, top, right, bottom = box
    rows = image.resize((size[0], image.height), smooth, (left, 0, right, image.height))
    return rows.resize(size, smooth, (0, top, size[0], bottom))


def _resized(
    image: Image.Image, box: Box, preprocessing: Preprocessing, smooth: Image.Resampling | None = None, fill: int = 0
) -> Image.Image:
    smooth = FILTERS[preprocessing.interpolation] if smooth is None else smooth
    left, top, right, bottom = box
    if left >= 0 and top >= 0 and right <= image.width and bottom <= image.height:
        return resampled(image, (preprocessing.size, preprocessing.size), smooth, box)
    x, y = preprocessing.size / (right - left), preprocessing.size / (bottom - top)  # it reaches beyond the image: pad
    inner = (max(left, 0.0), max(top, 0.0), min(right, image.width), min(bottom, image.height))
    width, height = max(1, round((inner[2] - inner[0]) * x)), max(1, round((inner[3] - inner[1]) * y))
    canvas = Image.new(image.mode, (preprocessing.size, preprocessing.size), fill)
    canvas.paste(
        resampled(image, (width, height), smooth, inner),
        (round(-left * x) if left < 0 else 0, round(-top * y) if top < 0 else 0),
    )
    return canvas
