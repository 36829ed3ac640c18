"""The colours of all figures: one colour per thing, in all of them; colour-blind readers can tell them apart."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

TRAIN, VALID, TEST = "#4477aa", "#ee7733", "#117733"
INK, GREY, LINE = "#333333", "#8c8c8c", "#e3e3e3"
FIRST = ("4477aa", "ee7733", "228833", "aa3377", "ccbb44", "66ccee", "cc3311", "44bb99")  # after Paul Tol
LEVELS = np.linspace(24, 240, 13).round()  # per channel; black and white are left for text and background


def palette(n: int, given: Sequence[int] = ()) -> np.ndarray:
    """The colours of n classes, (n, 3) of uint8: all different up to 2000, the first ones as different as possible.

    A smaller palette is the start of every larger one. given: the user's own colours 0xRRGGBB, if there are any.
    """
    if given:
        return np.array([[colour >> 16, colour >> 8 & 255, colour & 255] for colour in given], np.uint8)
    return _palette(1 << max(3, (n - 1).bit_length()))[:n].copy()


@functools.lru_cache(maxsize=4)
def _palette(n: int) -> np.ndarray:
    chosen = [np.frombuffer(bytes.fromhex(colour), np.uint8) for colour in FIRST]
    grid = np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS, indexing="ij"), -1).reshape(-1, 3).astype(np.uint8)
    seen = _lab(grid)
    nearest = np.min([np.linalg.norm(seen - _lab(colour), axis=1) for colour in chosen], 0)
    while len(chosen) < n:
        furthest = int(nearest.argmax())
        chosen.append(grid[furthest])
        nearest = np.minimum(nearest, np.linalg.norm(seen - seen[furthest], axis=1))
    return np.stack(chosen)


def _lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of sRGB (…, 3) of uint8, where distance is roughly how different two colours look."""
    value = rgb / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array([[0.4339, 0.2126, 0.0178], [0.3762, 0.7152, 0.1095], [0.1899, 0.0722, 0.8727]])
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)
