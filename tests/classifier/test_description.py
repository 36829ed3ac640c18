"""What model.json may say, and what is told of anything else."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.classifier.description import Description, read_description
from frostline.errors import WeightsError
from frostline.preprocessing import Preprocessing
from frostline.tasks import NAMES

PLAIN = Description(
    "classification", "timm:x", "none", {"fc": None, "top": (8, 4, 4)}, ("a", "b"), Preprocessing(), {"m": "00"}
)
DELETED = object()
OPTIONAL = ("licence", "sha256", "code", "colours")


def written(folder: Path, values: Any) -> Path:
    (folder / "model.json").write_text(json.dumps(values))
    return folder


@given(
    st.sampled_from(NAMES),
    st.lists(st.text(), min_size=1, unique=True),
    st.tuples(*[st.floats(0.01, 3)] * 3),
    st.integers(1, 999),
    st.floats(0.05, 20),
)
def test_what_is_written_is_read_back(task, classes, std, size, temperature):
    preprocessing = replace(Preprocessing(), std=std, size=size)
    given = {"task": task, "classes": tuple(classes), "preprocessing": preprocessing, "temperature": temperature}
    description = replace(PLAIN, **given)
    with tempfile.TemporaryDirectory() as folder:
        assert read_description(written(Path(folder), description.as_json())) == description


def test_a_file_that_says_neither_licence_nor_digest_is_read(tmp_path):
    values = {name: value for name, value in PLAIN.as_json().items() if name not in OPTIONAL}
    assert read_description(written(tmp_path, values)) == PLAIN
    assert read_description(written(tmp_path, {**values, "licence": "mit"})).licence == "mit"


WRONG = [
    ("task", "losses", "its task 'losses' is not one of classification, multilabel, segmentation"),
    ("task", ["classification"], "its task"),
    ("task", DELETED, "it lacks task"),
    ("backbone", 3, "its backbone is not text"),
    ("backbone", DELETED, "it lacks backbone"),
    ("weights", None, "its weights are not text"),
    ("licence", None, "its licence is not text"),
    ("colours", [1], "its colours are not a list of one number per class"),
    ("colours", [1, 2**24], "its colours"),
    ("colours", [True, 0.5], "its colours"),
    ("sha256", 5, "its sha256 is not text"),
    ("code", ["model"], "its code is not text"),
    ("classes", "ab", "its classes are not a list of names"),
    ("classes", [], "its classes are not a list of names"),
    ("classes", ["a", 1], "its classes are not a list of names"),
    ("classes", ["a", "a"], "its classes have a duplicate name"),
    ("heads", ["fc"], "its heads are not a mapping"),
    ("heads", {"fc": [0]}, "its heads are not a mapping"),
    ("heads", {"fc": [8, 4]}, "its heads are not a mapping"),
    ("files", {"m": 7}, "its files are not a mapping"),
    ("files", DELETED, "it lacks files"),
    ("temperature", 0, "its temperature is not a number above 0"),
    ("temperature", -1.3, "its temperature is not a number above 0"),
    ("temperature", float("nan"), "its temperature is not a number above 0"),
    ("temperature", float("inf"), "its temperature is not a number above 0"),
    ("temperature", 10**400, "its temperature is not a number above 0"),
    ("temperature", "1.3", "its temperature is not a number above 0"),
    ("temperature", True, "its temperature is not a number above 0"),
    ("temperature", None, "its temperature is not a number above 0"),
    ("temperature", DELETED, "it lacks temperature"),
    ("preprocessing", [], "its preprocessing must have crop, interpolation, mean"),
]
WRONG_PREPROCESSING = [
    ("size", 0, "the size of its preprocessing is not a number of pixels"),
    ("size", "224", "the size of its preprocessing is not a number of pixels"),
    ("size", True, "the size of its preprocessing is not a number of pixels"),
    ("resize", 10**9, "the resize of its preprocessing is not a number of pixels"),
    ("interpolation", "cubic", "its interpolation is not one of bilinear, bicubic, nearest, lanczos"),
    ("crop", "top", "its crop is not one of center, squash"),
    ("mean", [0.5, 0.5], "not lists of one number per channel"),
    ("mean", [0.5, None, 0.5], "not lists of one number per channel"),
    ("std", [0.2, 0.0, 0.2], "its std is not above 0"),
    ("colour", "red", "its preprocessing must have"),
    ("mean", DELETED, "its preprocessing must have"),
]


def changed(values: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    return {name: old for name, old in {**values, key: value}.items() if old is not DELETED}


@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_a_value_that_cannot_be_is_told(key, value, message, tmp_path):
    written(tmp_path, changed(PLAIN.as_json(), key, value))
    with pytest.raises(WeightsError) as error:
        read_description(tmp_path)
    assert message in str(error.value)
    assert "copy the folder again" in str(error.value)


@pytest.mark.parametrize(("key", "value", "message"), WRONG_PREPROCESSING)
def test_preprocessing_that_cannot_be_is_told(key, value, message, tmp_path):
    values = PLAIN.as_json()
    written(tmp_path, {**values, "preprocessing": changed(values["preprocessing"], key, value)})
    with pytest.raises(WeightsError) as error:
        read_description(tmp_path)
    assert message in str(error.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.sampled_from(sorted(PLAIN.as_json())), JSON)
def test_any_value_is_taken_or_told(key, value):
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder), {**PLAIN.as_json(), key: value})
        try:
            read_description(Path(folder))
        except WeightsError as error:
            assert "fit again" in str(error)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "\xff"])
def test_what_is_no_json_object_is_told(content, tmp_path):
    (tmp_path / "model.json").write_text(content, encoding="latin-1")
    with pytest.raises(WeightsError, match="is corrupt: model.json cannot be used"):
        read_description(tmp_path)


@pytest.mark.parametrize("number", [1, 2, 3, 99])
def test_another_format_is_told(number, tmp_path):
    written(tmp_path, {**PLAIN.as_json(), "format": number})
    with pytest.raises(
        WeightsError, match=f"has format {number}, but this version of Frostline reads format 4: fit again"
    ):
        read_description(tmp_path)
