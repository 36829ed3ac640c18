"""A few bad files are a fact of life, many are a broken data set."""

from __future__ import annotations

import numpy as np
import pytest

from frostline.data.images import Images
from frostline.data.masks import Masks
from frostline.data.unreadable import empty_files, named, refuse_lost_classes, refuse_too_many
from frostline.errors import DataError

BAD = [(f"{i}", "empty file") for i in range(2_000)]


@pytest.mark.parametrize(
    ("total", "borne"), [(1, 0), (2, 0), (3, 1), (5, 2), (20, 9), (21, 10), (99, 10), (1_099, 10), (10_000, 100)]
)
def test_one_in_a_hundred_is_tolerated_and_ten_of_fewer_but_never_half(total, borne):
    refuse_too_many(BAD[:borne], total)
    with pytest.raises(
        DataError, match=rf"{borne + 1} of {total} images cannot be read; at most {borne} may be: 0 \(emp"
    ):
        refuse_too_many(BAD[: borne + 1], total)


@pytest.mark.parametrize(
    "targets", [np.array([0, 0, 1, 1]), np.array([[True, False], [True, False], [False, True], [True, True]])]
)
def test_a_class_that_loses_its_last_training_image_is_refused(targets):
    images = Images(np.zeros((4, 8, 8), np.uint8), targets, list("abcd"))
    refuse_lost_classes(images, images.without([0, 2]), ("ant", "bee"))
    with pytest.raises(DataError, match="no training image of bee can be read"):
        refuse_lost_classes(images, images.without([2, 3]), ("ant", "bee"))


def test_masks_have_no_class_to_lose():
    masks = Masks([np.zeros((8, 8), np.uint8)] * 2, np.arange(256, dtype=np.uint8))
    images = Images(np.zeros((2, 8, 8), np.uint8), masks, ["a", "b"])
    refuse_lost_classes(images, images.without([0]), ("ant", "bee"))


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
