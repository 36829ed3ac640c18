"""Unreadable images: how many a run tolerates, and how messages list them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from frostline.data.images import Images
from frostline.data.masks import Masks
from frostline.data.parts import Parts
from frostline.data.texts import Paths
from frostline.errors import DataError, several

SHARE, ANYWAY = 0.01, 10  # at most this share may be unreadable, or this many, but always fewer than half


def refuse_too_many(unreadable: list[tuple[str, str]], total: int, *, skip: bool = False) -> None:
    """Raises DataError if too many images are unreadable, which means a broken data set.

    Up to ten are tolerated, and up to 1 %, as long as more than half of the images can be read.
    skip: tolerate any number but all.
    """
    most = max(min(ANYWAY, (total - 1) // 2), int(SHARE * total))
    if unreadable and (len(unreadable) == total or (len(unreadable) > most and not skip)):
        raise DataError(
            f"{len(unreadable)} of {total} images cannot be read; at most {most} may be: {named(unreadable)}; repair "
            "or remove them, go on without them (--skip-unreadable), or let frostline check DATA --fix good.csv write "
            "a manifest without them"
        )


def refuse_lost_classes(before: Images, after: Images, classes: Sequence[str]) -> None:
    """Raises DataError if a class of the training images `before` has none in `after`, those that can be read."""
    if isinstance(before.targets, Masks) or isinstance(after.targets, Masks):
        return
    lost = np.setdiff1d(_used(before.targets), _used(after.targets))
    if len(lost):
        names = ", ".join(classes[number] for number in lost[:5]) + (" …" if len(lost) > 5 else "")
        raise DataError(
            f"no training image of {names} can be read, and a class without images cannot be learned; repair the "
            "images, or let frostline check DATA --fix good.csv write a manifest without them"
        )


def _used(targets: np.ndarray) -> np.ndarray:
    """The numbers of the classes that have images."""
    return np.unique(targets) if targets.ndim == 1 else np.flatnonzero(targets.any(0))


def empty_files(images: Images) -> list[tuple[str, str]]:
    """The empty files, with the reason; they are known before anything is read."""
    if not isinstance(images.pictures, (Paths, Parts)):  # other pictures have no size before they are read
        return []
    digests = images.digests
    empty = np.flatnonzero((digests.sizes() == 0) & (digests.status[:, 1] > 0))  # others are not there
    return [(images.names[i], "empty file") for i in empty.tolist()]


def named(unreadable: list[tuple[str, str]], most: int = 5) -> str:
    """The first few unreadable files with their reasons."""
    return several([f"{name} ({reason})" for name, reason in unreadable], most, between="; ")
