"""What a look at a data set finds: one value for each finding, and all of them as table, CSV and JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from frostline.files import csv_text

KINDS = {  # the most harmful first: (one, several)
    "leak": ("image that is in another split, too", "images that are in another split, too"),
    "unreadable": ("file that cannot be read", "files that cannot be read"),
    "label-conflict": ("image with two labels", "images with two labels"),
    "label-error": ("label that is likely wrong", "labels that are likely wrong"),
    "group": ("group of images in more than one split", "groups of images in more than one split"),
    "missing-class": ("class without images in a split", "classes without images in a split"),
    "similar-names": ("pair of classes with nearly the same name", "pairs of classes with nearly the same name"),
    "imbalance": ("imbalance of classes", "imbalances of classes"),
    "duplicate": ("image that is there several times", "images that are there several times"),
    "near-duplicate": ("image that is there in several versions", "images that are there in several versions"),
    "outlier": ("image unlike all others", "images unlike all others"),
}
COLUMNS = ("kind", "path", "split", "label", "score", "detail")


@dataclass(frozen=True)
class Finding:
    """One thing to look at.

    kind: one of KINDS. paths: the images, as the data set names them; none where it is about classes.
    splits, labels: of each path, or those that it is about. score: the higher, the surer or the stronger:
        of copies the cosine of their features (1 for the same bytes), of a likely wrong label how improbable it is
        (0 … 1), of an outlier how many times farther than usual it lies from its neighbours, of an
        imbalance how many times the images, of others 1.
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

    lacking: what could not be looked for, and why; "" where all was.
    """

    n: int
    findings: tuple[Finding, ...]
    lacking: str = ""

    def __repr__(self) -> str:
        return f"Checks({self.summary()}, n = {self.n})"

    @property
    def counts(self) -> dict[str, int]:
        """How many findings there are of each kind, 0 included."""
        counted = Counter(finding.kind for finding in self.findings)
        return {kind: counted[kind] for kind in KINDS}

    def of(self, kind: str) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.kind == kind)

    def as_json(self) -> dict[str, Any]:
        """What `check --json` prints."""
        return {"n": self.n, "counts": self.counts, "findings": [finding.as_json() for finding in self.findings]}

    def as_csv(self) -> str:
        """A line per image of a finding; a finding without images has one line."""
        return csv_text(COLUMNS, (record for finding in self.findings for record in _records(finding)))

    def summary(self) -> str:
        """All counts in one line.

        >>> Checks(40, (Finding("leak", ("a",), ("valid",), ("x",), 1.0, ""),)).summary()
        '1 image that is in another split, too'
        """
        return in_words(self.counts)


def in_words(counts: Mapping[str, int]) -> str:
    """The number of findings of each kind, in one line."""
    return ", ".join(f"{n} {KINDS[kind][n > 1]}" for kind, n in counts.items() if n) or "nothing found"


def ordered(n: int, findings: Iterable[Finding], lacking: str = "") -> Checks:
    """The checks of n images, with the findings in the order in which they are to be read."""
    order = {kind: number for number, kind in enumerate(KINDS)}
    return Checks(n, tuple(sorted(findings, key=lambda f: (order[f.kind], -f.score, f.paths, f.labels))), lacking)


def _records(finding: Finding) -> list[Sequence[object]]:
    count = max(1, len(finding.paths))
    own = zip(*(_filled(values, count) for values in (finding.paths, finding.splits, finding.labels)), strict=True)
    return [(finding.kind, path, split, label, f"{finding.score:.4f}", finding.detail) for path, split, label in own]


def _filled(values: tuple[str, ...], count: int) -> tuple[str, ...]:
    """One for each line: as they are where there are as many, else all of them in each."""
    return values if len(values) == count else (", ".join(values),) * count
