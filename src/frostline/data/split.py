"""Taking a validation split: stratified, seeded, the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from frostline.data.images import Images


def stratified(targets: np.ndarray, names: Sequence[str], fraction: float, seed: int) -> np.ndarray:
    """Which images go to the smaller part: (N,) of bool, `fraction` of every class, never all of one.

    Decided by the seed and each image's name, so another image more or less moves no other one far.
    """
    order = [
        hashlib.blake2b(f"{seed} {name}".encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names
    ]
    chosen = np.zeros(len(targets), bool)
    for target in np.unique(targets):
        rows = sorted(np.flatnonzero(targets == target), key=lambda row: order[row])
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        chosen[rows[:count]] = True
    return chosen


def split(images: Images, fraction: float, seed: int) -> tuple[Images, Images]:
    """The images without, and with, those of the stratified part."""
    chosen = stratified(images.targets, images.names, fraction, seed)
    return images.take(np.flatnonzero(~chosen)), images.take(np.flatnonzero(chosen))
