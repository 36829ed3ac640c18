"""Images that are tiny or huge beside the others: thumbnails, icons, scans that slipped in."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from frostline.checks.findings import Finding
from frostline.checks.samples import Samples
from frostline.data.decoding import size_of

TIMES = 8  # as long or as short a side as an image usually has
FEWEST = 10  # images by which it can be said what is usual


def findings(samples: Samples) -> Iterator[Finding]:
    """The images whose side, the root of their pixels, is 8 times as long or as short as that of half of all images.

    By what files state, without decoding them; what states nothing before it is decoded is left out.
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
        text = f"it is {what}: {width} × {height} pixels, where an image usually has {usual:.0f} × {usual:.0f}"
        yield Finding("outlier", samples.names(at), samples.splits_at(at), samples.labels_at(at), float(times[i]), text)
