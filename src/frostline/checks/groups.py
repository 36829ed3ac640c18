"""Images that belong together, as frames of one video or pictures of one patient do, and stand in several splits.

What is learned of one of them is asked of the next: the figures are too good then, as they are for copies.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePath

import numpy as np

from frostline.checks.findings import Finding
from frostline.checks.samples import Samples

FRAMES = 3  # images of a series, at least
SEPARATOR = "[-_. ]"
NUMBERED = re.compile(rf"(.*\d.*?){SEPARATOR}+(?:[a-zA-Z]+{SEPARATOR}?)?(\d+)")  # patient12_003, video7-frame-0004
DENSE = 0.5  # of the numbers from the first to the last frame, at least so many are there


def series_of(names: Sequence[str]) -> list[str]:
    """Of each name the series that it looks like a frame of; "" where it looks like none.

    A series has a number of its own, and its frames are counted: patient12_003.png, video7-frame-0004.jpg. At least
    three frames, whose numbers follow each other nearly without a gap.

    >>> series_of(["video7_1.png", "video7_2.png", "video7_3.png", "1030023514_aad5c608f9.jpg", "cat_1.png"])
    ['video7', 'video7', 'video7', '', '']
    """
    frames: dict[str, list[int]] = defaultdict(list)
    found = []
    for name in names:
        matched = NUMBERED.fullmatch(PurePath(name).stem)
        series = matched[1] if matched else ""
        found.append(series)
        if matched:
            frames[series].append(int(matched[2]))
    good = {series for series, numbers in frames.items() if _counted(numbers)}
    return [series if series in good else "" for series in found]


def _counted(numbers: Sequence[int]) -> bool:
    different = len(set(numbers))
    return different >= FRAMES and different >= DENSE * (max(numbers) - min(numbers) + 1)


def findings(samples: Samples) -> Iterator[Finding]:
    """The series whose images are in more than one split."""
    series = series_of(list(samples.images.names))
    members: dict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(series):
        if name:
            members[name].append(number)
    if len(members) <= len(samples.classes):  # the pictures of a class are counted, not the frames of a video
        return
    for name, numbers in members.items():
        counts = np.bincount(samples.split_of[numbers], minlength=len(samples.splits))
        if (counts > 0).sum() > 1:
            each = ", ".join(f"{n} in {split}" for n, split in zip(counts, samples.splits, strict=True) if n)
            text = f"the files look like one series, {name}: {each}"
            yield Finding("group", samples.names(numbers), samples.splits_at(numbers), (), 1.0, text)
