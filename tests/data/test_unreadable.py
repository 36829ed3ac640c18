"""How many images may be unreadable, and how they are named."""

from __future__ import annotations

import pytest

from frostline.data.unreadable import named, refuse_too_many
from frostline.errors import DataError


def test_one_percent_of_bad_images_is_the_limit():
    refuse_too_many([("x", "empty file")], 100)
    with pytest.raises(DataError, match=r"2 of 100 images cannot be read, more than 1%: x \(empty file\); y"):
        refuse_too_many([("x", "empty file"), ("y", "truncated")], 100)


def test_only_the_first_unreadable_files_are_named():
    assert named([(str(i), "empty") for i in range(7)]).endswith("4 (empty) and 2 more")
    assert named([("x", "empty")]) == "x (empty)"
