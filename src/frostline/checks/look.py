"""Run all checks of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from frostline.checks import classes as names
from frostline.checks import copies, sizes, suspects
from frostline.checks import groups as together
from frostline.checks.findings import Checks, Finding, ordered
from frostline.checks.neighbours import nearest
from frostline.checks.outliers import strange
from frostline.checks.samples import Samples
from frostline.process import give_back_freed_memory

Unreadable = Sequence[tuple[str, str, str]]  # (split, name, reason)


def look(
    samples: Samples, unreadable: Unreadable = (), lacking: str = "", groups: Mapping[str, str] | None = None
) -> Checks:
    """All findings about the images.

    unreadable: (split, name, reason) of each unreadable image; the samples do not contain them.
    lacking: why there are no features. Without features only byte-identical copies are found, and neither wrong labels
        nor outliers.
    groups: the known groups, by the name of an image.
    """
    every = [*_of_files(unreadable), *_of_pictures(samples), *names.findings(samples)]
    every += [*together.findings(samples, groups), *sizes.findings(samples)]
    return ordered(len(samples) + len(unreadable), every, lacking)


def leaked(checks: Checks, split: str) -> set[str]:
    """The names of the images in a split that have a copy in an earlier split."""
    return {finding.paths[0] for finding in checks.of("leak") if finding.splits[0] == split}


def _of_files(unreadable: Unreadable) -> Iterator[Finding]:
    for split, name, reason in unreadable:
        yield Finding("unreadable", (name,), (split,), (), 1.0, reason)


def _of_pictures(samples: Samples) -> Iterator[Finding]:
    same = copies.identical(samples.digests)
    if samples.features is None:
        yield from copies.findings(samples, same, ())
        return
    _, first = np.unique(samples.digests, return_index=True)
    rows = np.sort(first)  # one image per content, because copies would be each other's neighbours
    every = len(rows) == len(samples)
    cosines, numbers = nearest(samples.features if every else samples.features[rows])
    give_back_freed_memory()  # each step has blocks of other sizes, which do not fit the freed memory
    yield from copies.findings(samples, same, copies.versions(samples, cosines, numbers, rows))
    for row, times in strange(cosines):
        at = [int(rows[row])]
        text = f"{times:.1f} times as far from its nearest neighbours as usual"
        yield Finding("outlier", samples.names(at), samples.splits_at(at), samples.labels_at(at), times, text)
    give_back_freed_memory()
    if samples.one_label:
        yield from suspects.findings(samples)
