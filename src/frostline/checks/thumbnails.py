"""Thumbnails for comparison: small and grey, so that resizing, saving again and brightness hardly matter."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from frostline.data.decoding import Picture, UnreadableImageError, open_reduced, size_of
from frostline.process import usable_cores

SIDE = 32
NOTHING = np.zeros(SIDE * SIDE, np.uint8)
CHUNK = 64  # pictures per task of a thread
LEAST = 32  # pixels of the shorter side that a picture needs for a distinctive thumbnail


def thumbnail(picture: Picture) -> np.ndarray:
    """The picture as 32 × 32 grey levels, for any shape: (1024,) of uint8. Raises UnreadableImageError.

    >>> thumbnail(np.full((50, 80, 3), 7, np.uint8)).max()
    np.uint8(7)
    """
    grey = open_reduced(picture, 4 * SIDE)[0].convert("L")
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX)).ravel()


def telling(picture: Picture) -> np.ndarray:
    """The thumbnail of a picture, or zeros, which match nothing, if it is not distinctive.

    Pictures below 32 pixels are not distinctive, because two handwritten digits may be as similar as one digit saved
    twice. Unreadable pictures also give zeros.
    """
    size = size_of(picture)
    if size is None or min(size) >= LEAST:
        with contextlib.suppress(UnreadableImageError):
            return thumbnail(picture)
    return NOTHING


def all_telling(pictures: Iterable[Picture]) -> list[np.ndarray]:
    """`telling` for many pictures, on all cores."""
    with ThreadPoolExecutor(usable_cores()) as threads:
        parts = threads.map(lambda some: [telling(picture) for picture in some], _chunks(pictures))
        return [glance for part in parts for glance in part]


def _chunks(pictures: Iterable[Picture]) -> Iterator[list[Picture]]:
    rest = iter(pictures)
    while some := list(itertools.islice(rest, CHUNK)):
        yield some


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """The correlation of two thumbnails, from -1 to 1; 0 if one of them is uniform.

    >>> ramp = np.arange(1024) // 8
    >>> round(correlation(ramp, 2 * ramp + 1), 6), correlation(ramp, np.ones(1024))
    (1.0, 0.0)
    """
    a, b = one - one.mean(), other - other.mean()
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size else 0.0
