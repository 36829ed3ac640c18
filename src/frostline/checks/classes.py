"""Checks of the classes: their counts, splits without them, and similar names."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import numpy as np

from frostline.checks.findings import Finding
from frostline.checks.samples import Samples
from frostline.data.masks import Masks
from frostline.tasks.summary import IMBALANCED


def findings(samples: Samples) -> Iterator[Finding]:
    """Imbalance of the training images, classes missing from a split, classes with nearly the same name."""
    yield from similar(samples.classes)
    targets = samples.images.targets
    if isinstance(targets, Masks):
        return
    for number, split in enumerate(samples.splits):
        own = targets[samples.split_of == number]
        counts = own.sum(0) if own.ndim == 2 else np.bincount(own, minlength=len(samples.classes))
        yield from _missing(samples.classes, counts, split)
        if number == 0 and targets.ndim == 1:
            yield from _imbalance(samples.classes, counts, split)


def _missing(classes: tuple[str, ...], counts: np.ndarray, split: str) -> Iterator[Finding]:
    what = "training cannot learn it" if split == "train" else "its accuracy is not measured"
    for number in np.flatnonzero(counts == 0):
        text = f"no {split} image is labelled {classes[number]}: {what}"
        yield Finding("missing-class", (), (split,), (classes[number],), 1.0, text)


def _imbalance(classes: tuple[str, ...], counts: np.ndarray, split: str) -> Iterator[Finding]:
    present = np.flatnonzero(counts)
    if len(present) < 2:
        return
    most, least = present[counts[present].argmax()], present[counts[present].argmin()]
    times = float(counts[most] / counts[least])
    if times > IMBALANCED:
        text = f"{classes[most]} has {counts[most]} {split} images, {classes[least]} {counts[least]}"
        yield Finding("imbalance", (), (split,), (classes[most], classes[least]), times, text)


def similar(classes: tuple[str, ...]) -> Iterator[Finding]:
    """Classes with nearly the same name."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(plain(name), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            text = f"{' and '.join(map(repr, names))} differ only in case, spaces, hyphens or Unicode form"
            yield Finding("similar-names", (), (), tuple(names), 1.0, text)


def plain(name: str) -> str:
    """A name without differences in case, spaces, hyphens and Unicode form.

    >>> plain("Golden_Retriever") == plain("golden  retriever ")
    True
    """
    folded = unicodedata.normalize("NFKC", name).casefold()
    return " ".join("".join(" " if c in "_-" else c for c in folded).split())
