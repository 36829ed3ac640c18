from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.classifier.answers import Columns, as_text
from frostline.classifier.classifier import Prediction
from frostline.terminal import printable

GOOD = Prediction(
    "a.jpg", "cat", 0.75, (("cat", 0.75), ("dog", 0.25)), probabilities=np.array([0.75, 0.25], np.float32)
)
BAD = Prediction("b.jpg", error="empty file")


def written(predictions, layout, **columns):
    return "".join(as_text(predictions, layout, Columns(**columns), width=5))


def rows(predictions, **columns):
    return list(csv.DictReader(io.StringIO(written(predictions, "csv", **columns))))


@pytest.mark.parametrize("layout", ["table", "csv", "json", "jsonl"])
def test_nothing_waits_for_the_last_image(layout):
    """Stumbles 19 and 30."""

    def endless():
        while True:
            yield GOOD

    text = as_text(endless(), layout, Columns())
    assert "a.jpg" in next(text) + next(text)


@given(st.lists(st.sampled_from([GOOD, BAD]), max_size=5))
def test_json_is_a_list_and_json_lines_are_its_items(predictions):
    expected = [each.as_json() for each in predictions]
    assert written(predictions, "json") == json.dumps(expected, indent=2) + "\n"
    assert [json.loads(line) for line in written(predictions, "jsonl").splitlines()] == json.loads(json.dumps(expected))


def test_csv_has_as_many_classes_as_are_asked_for():
    plain, bad = rows([GOOD, BAD])
    assert plain == {"path": "a.jpg", "label": "cat", "probability": "0.750000", "error": ""}
    assert (bad["label"], bad["error"]) == ("", "empty file")
    more, bad = rows([GOOD, BAD], top=3, classes=("cat", "dog"))
    assert (more["label_2"], more["probability_2"], more["label_3"]) == ("dog", "0.250000", "")
    assert (more["p_cat"], more["p_dog"], bad["p_cat"]) == ("0.750000", "0.250000", "")


def test_names_that_are_formulas_are_text():
    strange = Prediction("=1+1.jpg", "@cat", 0.5, (("@cat", 0.5), ("-dog", 0.5)), probabilities=np.ones(2, np.float32))
    (row,) = rows([strange], top=2, classes=("@cat", "-dog"))
    assert (row["path"], row["label"], row["label_2"]) == ("'=1+1.jpg", "'@cat", "'-dog")


def test_a_table_says_what_is_sure_and_what_is_next():
    assert written([GOOD, BAD], "table") == "a.jpg  0.7500  cat\nb.jpg  error: empty file\n"
    assert written([GOOD], "table", top=2) == "a.jpg  0.7500  cat, 0.2500 dog\n"
    strange = Prediction("a.jpg", "cat", 0.75, set=("cat",), none=True, why=(("t.jpg", "cat", 0.5),))
    assert written([strange], "table").splitlines() == [
        "a.jpg  maybe none of the classes (far from the training images), else 0.7500  cat  {cat}",
        "       like t.jpg (cat, cosine 0.50)",
    ]


def test_a_terminal_never_gets_an_escape_of_a_name():
    strange = [Prediction("a\x1b[31mb.png", "x\x1b", 0.5), Prediction("c", error="no \x1b image")]
    text = "".join(as_text(strange, "csv", Columns(), shown=printable))
    assert "a\\x1b[31mb.png,x\\x1b,0.5" in text
    assert "\x1b" not in text + written(strange, "table")
