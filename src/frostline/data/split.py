"""Splits: taking one for validation (stratified, seeded, the same on every machine), and choosing among them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

import numpy as np

from frostline.data.images import Images, Targets
from frostline.data.masks import Masks
from frostline.errors import DataError


def stratified(targets: Targets, names: Sequence[str], fraction: float, seed: int) -> np.ndarray:
    """Which images go to the smaller part: (N,) of bool, `fraction` of every class, never all of one.

    An image of several labels counts for its rarest one, those without any are a class of their own, and so are all
    images that have masks.
    Decided by the seed and each image's name, so another image more or less moves no other one far.
    """
    order = [
        hashlib.blake2b(f"{seed} {name}".encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names
    ]
    groups = _groups(targets)
    chosen = np.zeros(len(groups), bool)
    for group in np.unique(groups):
        rows = sorted(np.flatnonzero(groups == group), key=lambda row: order[row])
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        chosen[rows[:count]] = True
    return chosen


def _groups(targets: Targets) -> np.ndarray:
    """(N,), equal numbers for images that are taken from together."""
    if isinstance(targets, Masks):
        return np.zeros(len(targets), np.int64)
    if targets.ndim == 1:
        return targets
    often = np.where(targets, targets.sum(axis=0), len(targets) + 1)
    return np.where(targets.any(axis=1), often.argmin(axis=1), -1)


def split(images: Images, fraction: float, seed: int) -> tuple[Images, Images]:
    """The images without, and with, those of the stratified part."""
    chosen = stratified(images.targets, images.names, fraction, seed)
    return images.take(np.flatnonzero(~chosen)), images.take(np.flatnonzero(chosen))


def with_validation(splits: dict[str, Images], fraction: float, seed: int, where: object) -> dict[str, Images]:
    """The splits, and where there is none for validation, one that is taken from training.

    Raises DataError where either is left empty.
    """
    if "valid" not in splits:
        train, valid = split(splits["train"], fraction, seed)
        splits = {**splits, "train": train, "valid": valid}
    for name, of in (("train", "training"), ("valid", "validation")):
        if len(splits[name]) == 0:
            raise DataError(f"no {of} images in {where}; every class needs at least two images")
    return splits


def chosen_splits(found: Collection[str], wanted: str, where: object) -> tuple[list[str], str]:
    """Which of the splits found to measure on, and what to call them together.

    wanted: "all", "train", "valid" or "test"; "" for the test split, else validation, else all. Raises DataError for
        a split that is not there.
    """
    choice = wanted or next((name for name in ("test", "valid") if name in found), "all")
    if choice == "all":
        return list(found), choice
    if choice not in found:
        raise DataError(f"{where} has no {choice} split; it has {', '.join(found)}")
    return [choice], choice
