from __future__ import annotations

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from frostline.checks.findings import KINDS, Checks, Finding, ordered

findings = st.builds(
    Finding,
    kind=st.sampled_from(list(KINDS)),
    paths=st.lists(st.text(min_size=1), max_size=3).map(tuple),
    splits=st.just(("train",)),
    labels=st.just(("a", "b")),
    score=st.floats(0, 10),
    detail=st.text(),
)


@given(st.lists(findings, max_size=12))
def test_counts_name_every_kind_and_add_up(found):
    checks = ordered(100, found)
    assert list(checks.counts) == list(KINDS)
    assert sum(checks.counts.values()) == len(found)
    assert sorted(map(repr, checks.findings)) == sorted(map(repr, found))
    for kind in KINDS:
        scores = [finding.score for finding in checks.of(kind)]
        assert scores == sorted(scores, reverse=True)


@given(st.lists(findings, max_size=5))
def test_the_csv_has_a_line_per_image_whatever_it_is_called(found):
    checks = ordered(5, found)
    records = list(csv.DictReader(io.StringIO(checks.as_csv(), newline="")))
    assert len(records) == sum(max(1, len(finding.paths)) for finding in found)
    assert not any(cell.startswith(("=", "@")) for record in records for cell in record.values())


def test_json_is_what_scripts_rely_on():
    finding = Finding("leak", ("v.jpg", "t.jpg"), ("valid", "train"), ("ant", "ant"), 1.0, "the same bytes")
    assert ordered(7, [finding]).as_json() == {
        "n": 7,
        "counts": {kind: int(kind == "leak") for kind in KINDS},
        "findings": [
            {
                "kind": "leak",
                "paths": ["v.jpg", "t.jpg"],
                "splits": ["valid", "train"],
                "labels": ["ant", "ant"],
                "score": 1.0,
                "detail": "the same bytes",
            }
        ],
    }


def test_the_summary_counts_in_words():
    several = [Finding("duplicate", (name,), ("train",), ("a",), 1.0, "") for name in "ab"]
    assert ordered(2, several).summary() == "2 repeated images"
    assert Checks(3, ()).summary() == "nothing found"
