from __future__ import annotations

import numpy as np
import pytest

from conftest import draw_images
from frostline.checks.groups import findings, series_of
from frostline.checks.samples import samples_of
from frostline.data.images import Images


def named(*names: str) -> Images:
    drawn = draw_images(len(names))
    return Images(drawn.pictures, np.arange(len(names)) % 2, names)


VIDEOS = [[f"video{v}_{i:04}.png" for i in range(6)] for v in range(4)]


def test_frames_of_a_video_in_two_splits_are_found():
    train = named(*VIDEOS[0], *VIDEOS[1][:4])
    valid = named(*VIDEOS[1][4:], *VIDEOS[2], *VIDEOS[3])
    (found,) = findings(samples_of({"train": train, "valid": valid}, ("a", "b")))
    assert found.kind == "group"
    assert "4 in train, 2 in valid" in found.detail
    assert sorted(found.paths) == VIDEOS[1]


def test_groups_that_are_told_go_before_names():
    names = [f"{i}.png" for i in range(6)]
    splits = {"train": named(*names[:3]), "valid": named(*names[3:])}
    groups = {"0.png": "p1", "3.png": "p1", "1.png": "p2", "2.png": "p2"}
    (found,) = findings(samples_of(splits, ("a", "b")), groups)
    assert found.paths == ("0.png", "3.png")
    assert found.detail == "images of one group, p1: 1 in train, 1 in valid"


def test_videos_that_are_whole_in_a_split_are_not():
    splits = {"train": named(*VIDEOS[0], *VIDEOS[1]), "valid": named(*VIDEOS[2], *VIDEOS[3])}
    assert list(findings(samples_of(splits, ("a", "b")))) == []


@pytest.mark.parametrize(
    "names",
    [
        ["1030023514_aad5c608f9.jpg", "1030023514_aad5c608f8.jpg", "1030023514_aad5c608f7.jpg"],  # hexadecimal
        [f"cat_{i}.jpg" for i in range(9)],  # no number of its own
        [f"IMG_20200101_{i}.jpg" for i in (101203, 134501, 190233)],  # a time, not a count
        [f"n01440764_{i}.JPEG" for i in (10026, 10027, 18)],
        ["a.png", "", "no-number.png"],
    ],
)
def test_names_that_are_no_series(names):
    assert set(series_of(names)) == {""}


def test_the_pictures_of_a_class_are_no_series():
    names = [f"c{k}/class{k}_{i:03}.png" for k in range(2) for i in range(8)]
    splits = {"train": named(*names[::2]), "valid": named(*names[1::2])}
    assert list(findings(samples_of(splits, ("a", "b")))) == []
