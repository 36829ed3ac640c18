"""Images that are tiny or huge compared with the others: stray thumbnails, icons, scans."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from frostline.checks.findings import Finding
from frostline.checks.samples import Samples
from frostline.data.decoding import size_of

TIMES = 8  # ratio of an image's side to the usual one
FEWEST = 10  # images that are needed to know the usual size


def findings(samples: Samples) -> Iterator[Finding]:
    """The images whose side (the root of their pixels) is at least 8 times as long or as short as the median side.

    Sizes come from the headers of files; images whose size is unknown before decoding are skipped.
    """
    stated = [(number, size) for number, picture in enumerate(samples.images.pictures) if (size := size_of(picture))]
    if len(stated) < FEWEST:
        return
    sides = np.sqrt([float(width) * height for _, (width, height) in stated])
    usual = float(np.median(sides))
    times = np.maximum(sides, usual) / np.maximum(np.minimum(sides, usual), 1e-9)
    for i in np.flatnonzero(times >= TIMES):
        at, (width, height) = [stated[i][0]], stated[i][1]
        what = "tiny" if sides[i] < usual else "huge"
        text = f"{what}: {width} × {height} pixels; {usual:.0f} × {usual:.0f} is usual"
        yield Finding("outlier", samples.names(at), samples.splits_at(at), samples.labels_at(at), float(times[i]), text)
