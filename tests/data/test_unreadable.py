"""A few bad files are a fact of life, many are a broken data set."""

from __future__ import annotations

import pytest

from frostline.data.unreadable import named, refuse_too_many
from frostline.errors import DataError


def test_up_to_one_in_a_hundred_is_borne():
    refuse_too_many([], 0)
    refuse_too_many([("x", "empty file")], 100)
    with pytest.raises(DataError, match=r"2 of 100 images cannot be read, more than 1%: x \(empty file\); y"):
        refuse_too_many([("x", "empty file"), ("y", "truncated")], 100)


def test_one_bad_file_ends_no_run_however_small_the_set():
    refuse_too_many([("x", "empty file")], 5)
    with pytest.raises(DataError, match="2 of 5"):
        refuse_too_many([("x", "empty file"), ("y", "empty file")], 5)
    with pytest.raises(DataError, match="1 of 1"):
        refuse_too_many([("x", "empty file")], 1)


def test_only_the_first_are_named():
    assert named([(str(i), "empty") for i in range(7)]).endswith("4 (empty) and 2 more")
    assert named([("x", "empty")]) == "x (empty)"
