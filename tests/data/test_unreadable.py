"""A few bad files are a fact of life, many are a broken data set."""

from __future__ import annotations

import numpy as np
import pytest

from frostline.data.images import Images
from frostline.data.unreadable import empty_files, named, refuse_too_many
from frostline.errors import DataError

BAD = [(f"{i}", "empty file") for i in range(2_000)]


@pytest.mark.parametrize(
    ("total", "borne"), [(2, 1), (5, 1), (19, 1), (20, 2), (30, 3), (200, 3), (399, 3), (400, 4), (10_000, 100)]
)
def test_one_in_a_hundred_is_borne_and_three_of_few(total, borne):
    refuse_too_many(BAD[:borne], total)
    with pytest.raises(
        DataError, match=rf"{borne + 1} of {total} images cannot be read; at most {borne} may be: 0 \(emp"
    ):
        refuse_too_many(BAD[: borne + 1] if borne + 1 < total else BAD[:total], total)


def test_all_of_them_are_too_many_whatever_is_asked_for():
    refuse_too_many([], 0)
    refuse_too_many(BAD[:99], 100, skip=True)
    for total in (1, 100):
        with pytest.raises(DataError, match=f"{total} of {total}"):
            refuse_too_many(BAD[:total], total, skip=True)


def test_files_without_bytes_are_known_before_they_are_read(tmp_path):
    names = ["good.png", "empty.png", "gone.png"]
    (tmp_path / "good.png").write_bytes(b"x")
    (tmp_path / "empty.png").touch()
    images = Images([tmp_path / name for name in names], np.zeros(3, np.int64), names)
    assert empty_files(images) == [("empty.png", "empty file")]
    assert empty_files(Images(np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int64), ["a", "b"])) == []


def test_only_the_first_are_named():
    assert named([(str(i), "empty") for i in range(7)]).endswith("4 (empty) and 2 more")
    assert named([("x", "empty")]) == "x (empty)"
