"""The findings of the checks of a data set, as objects, table, CSV and JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from frostline.values import csv_text

KINDS = {  # the most harmful first: (one, several)
    "leak": ("image that is also in another split", "images that are also in another split"),
    "unreadable": ("unreadable file", "unreadable files"),
    "label-conflict": ("image with two labels", "images with two labels"),
    "label-error": ("likely wrong label", "likely wrong labels"),
    "group": ("group of images in more than one split", "groups of images in more than one split"),
    "missing-class": ("class without images in a split", "classes without images in a split"),
    "similar-names": ("pair of classes with nearly the same name", "pairs of classes with nearly the same name"),
    "imbalance": ("imbalance of classes", "imbalances of classes"),
    "duplicate": ("repeated image", "repeated images"),
    "near-duplicate": ("image in several versions", "images in several versions"),
    "outlier": ("image unlike all others", "images unlike all others"),
}
COLUMNS = ("kind", "path", "split", "label", "score", "detail")


@dataclass(frozen=True)
class Finding:
    """One thing to look at.

    kind: one of KINDS. paths: the names of the images in the data set; empty for findings about classes.
    splits, labels: one per path, or the splits and labels concerned. score: higher is surer or stronger. For copies it
        is the cosine of their features (1 for the same bytes), for a likely wrong label its improbability (0 … 1), for
        an outlier its distance from its neighbours relative to the usual one, for an imbalance the ratio of the counts,
        and 1 for the others.
    detail: what was found, in one sentence.
    """

    kind: str
    paths: tuple[str, ...]
    splits: tuple[str, ...]
    labels: tuple[str, ...]
    score: float
    detail: str

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "paths": list(self.paths),
            "splits": list(self.splits),
            "labels": list(self.labels),
            "score": self.score,
            "detail": self.detail,
        }


@dataclass(frozen=True)
class Checks:
    """All findings about n images, the most harmful kind first; within a kind the highest score.

    lacking: why some checks could not run; "" if all ran.
    """

    n: int
    findings: tuple[Finding, ...]
    lacking: str = ""

    def __repr__(self) -> str:
        return f"Checks({self.summary()}, n = {self.n})"

    @property
    def counts(self) -> dict[str, int]:
        """The number of findings of each kind, including 0."""
        counted = Counter(finding.kind for finding in self.findings)
        return {kind: counted[kind] for kind in KINDS}

    def of(self, kind: str) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.kind == kind)

    def as_json(self) -> dict[str, Any]:
        """The output of `check --json`."""
        return {"n": self.n, "counts": self.counts, "findings": [finding.as_json() for finding in self.findings]}

    def as_csv(self) -> str:
        """One line per image of a finding; a finding without images has one line."""
        return csv_text(COLUMNS, (record for finding in self.findings for record in _records(finding)))

    def summary(self) -> str:
        """All counts in one line.

        >>> Checks(40, (Finding("leak", ("a",), ("valid",), ("x",), 1.0, ""),)).summary()
        '1 image that is also in another split'
        """
        return in_words(self.counts)


def in_words(counts: Mapping[str, int]) -> str:
    """The number of findings of each kind, in one line."""
    return ", ".join(f"{n} {KINDS[kind][n > 1]}" for kind, n in counts.items() if n) or "nothing found"


def ordered(n: int, findings: Iterable[Finding], lacking: str = "") -> Checks:
    """The checks of n images, with the most important findings first."""
    order = {kind: number for number, kind in enumerate(KINDS)}
    return Checks(n, tuple(sorted(findings, key=lambda f: (order[f.kind], -f.score, f.paths, f.labels))), lacking)


def _records(finding: Finding) -> list[Sequence[object]]:
    count = max(1, len(finding.paths))
    own = zip(*(_filled(values, count) for values in (finding.paths, finding.splits, finding.labels)), strict=True)
    return [(finding.kind, path, split, label, f"{finding.score:.4f}", finding.detail) for path, split, label in own]


def _filled(values: tuple[str, ...], count: int) -> tuple[str, ...]:
    """One value per line; if their number differs, each line has all of them."""
    return values if len(values) == count else (", ".join(values),) * count
