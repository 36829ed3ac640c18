from __future__ import annotations

import base64
import csv
import io

import pytest

from frostline.report.tables import tables_of

METRICS = {
    "task": "classification",
    "valid": {
        "per_class": {
            "=1+1": {"n": 3, "recall": 0.5, "recall_interval": [0.1, 0.9], "precision": None, "f1": 0.4},
            "bees": {"n": 2, "recall": 1.0, "recall_interval": [0.3, 1.0], "precision": 0.5, "f1": 0.6},
        }
    },
    "phases": [{"frostline": "head", "epochs": 0, "valid": {"accuracy": 0.9, "loss": 0.2}, "seconds": 1.5}],
    "decisions": [],
    "learning_curve": {
        "points": [{"images": 10, "accuracy": 0.8, "interval": [0.7, 0.9]}],
        "doubled": {"images": 20, "expected": 0.85, "low": 0.8, "high": 0.9},
    },
}
RECORDS = [{"label": "=1+1", "predicted": p, "probability": "0.9"} for p in ("bees", "=1+1", "bees")]
CHECKS = {
    "findings": [
        {
            "kind": "leak",
            "score": 1.0,
            "detail": "the same",
            "splits": ["train", "valid"],
            "labels": ["a"],
            "paths": ["x", "y"],
        }
    ]
}


@pytest.fixture(scope="module")
def tables():
    bins = [{"said": 0.9, "right": 0.5, "n": 2, "low": 0.1, "high": 0.9}]
    made = tables_of(METRICS, "valid", [{"epoch": "1", "lr": "0.1"}], RECORDS, {}, CHECKS, bins)
    return {name: list(csv.reader(io.StringIO(base64.b64decode(text).decode()))) for name, text in made.items()}


def test_each_figure_has_its_rows(tables):
    assert tables["training"] == [["epoch", "lr"], ["1", "0.1"]]
    assert tables["plan"][1][:5] == ["head", "0", "0.9", "0.2", "1.5"]
    assert tables["calibration"][1] == ["0.9", "0.5", "2", "0.1", "0.9"]
    assert [row[0] for row in tables["learning"]] == ["kind", "measured", "forecast"]
    assert tables["data"][1] == ["leak", "1.0", "the same", "train | valid", "a", "x | y"]


def test_what_never_happened_is_left_out_of_the_confusion(tables):
    assert tables["confusion"][1:] == [["'=1+1", "'=1+1", "1"], ["'=1+1", "bees", "2"]]


def test_no_cell_is_a_formula(tables):
    for rows in tables.values():
        assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "@"))]


def test_a_section_without_rows_has_no_table(tables):
    assert not {"map", "mistakes", "unsure"} & tables.keys()


def test_classes_have_the_ends_of_their_intervals(tables):
    header, first, _ = tables["classes"]
    assert dict(zip(header, first, strict=True))["recall_low"] == "0.1"
