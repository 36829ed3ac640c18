"""Groups in several splits, such as frames of one video or pictures of one patient.

A model that has learned one image of a group knows the others, so the figures are too good, as with copies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from frostline.checks.findings import Finding
from frostline.checks.samples import Samples
from frostline.data.grouping import series_of


def findings(samples: Samples, groups: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """The groups whose images are in more than one split.

    groups: by the name of an image; without them, series by the names of the files.
    """
    names = list(samples.images.names)
    own = [groups.get(name, "") for name in names] if groups else series_of(names)
    members: dict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(own):
        if name:
            members[name].append(number)
    if not groups and len(members) <= len(samples.classes):  # the numbers count a class's images, not a video's frames
        return
    what = "images of one group" if groups else "the files look like one series"
    for name, numbers in members.items():
        counts = np.bincount(samples.split_of[numbers], minlength=len(samples.splits))
        if (counts > 0).sum() > 1:
            each = ", ".join(f"{n} in {split}" for n, split in zip(counts, samples.splits, strict=True) if n)
            yield Finding(
                "group", samples.names(numbers), samples.splits_at(numbers), (), 1.0, f"{what}, {name}: {each}"
            )
