from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conftest import draw_images, write_photos
from frostline.checks.cleaning import cleaned, dropped
from frostline.checks.findings import Finding, ordered
from frostline.checks.look import look
from frostline.checks.samples import samples_of
from frostline.data import read_data
from frostline.errors import UsageError

names = st.sampled_from(list("abcdefgh"))


def finding(kind: str, *paths: str) -> Finding:
    return Finding(kind, paths, ("train",) * len(paths), ("x",) * len(paths), 1.0, "")


@given(st.lists(st.builds(lambda paths: finding("duplicate", *paths), st.sets(names, min_size=2)), max_size=5))
def test_one_of_each_group_of_copies_stays_and_no_two(found):
    gone = dropped(ordered(8, found))
    for each in found:
        assert len({("train", path) for path in each.paths} - gone) <= 1
    assert len(gone) < 8  # nothing goes of which no copy was found


def test_what_is_measured_stays_and_what_is_learned_from_goes():
    assert dropped(ordered(9, [finding("leak", "valid-1", "train-1", "train-2")])) == {
        ("train", "train-1"),
        ("train", "train-2"),
    }


def test_an_image_with_two_labels_goes_with_all_its_copies():
    both = [finding("label-conflict", "a", "b"), finding("duplicate", "a", "b")]
    assert dropped(ordered(9, both)) == {("train", "a"), ("train", "b")}


def test_likely_wrong_labels_and_outliers_stay():
    assert dropped(ordered(9, [finding("label-error", "a"), finding("outlier", "b")])) == set()


@pytest.fixture
def split(tmp_path: Path) -> Path:
    root = tmp_path / "=data"
    for part, count in (("train", 6), ("val", 4)):
        write_photos(root / part, count)
        for file in (root / part).rglob("*.png"):  # both parts are drawn alike: make them differ
            if part == "val":
                Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    return root


def test_a_cleaned_manifest_can_be_read_and_has_no_findings_of_its_kinds(split: Path):
    copy = split / "val" / "tall" / "copy.png"
    copy.write_bytes((split / "train" / "tall" / "000.png").read_bytes())
    (split / "train" / "flat" / "=twice.png").write_bytes((split / "train" / "flat" / "001.png").read_bytes())
    (split / "train" / "tall" / "=1.png").write_bytes((split / "train" / "tall" / "001.png").read_bytes())
    (split / "train" / "tall" / "001.png").unlink()
    images = read_data(split)
    checks = look(samples_of(images.splits, images.classes))
    assert {kind: n for kind, n in checks.counts.items() if n} == {"leak": 1, "duplicate": 1}
    text, left = cleaned(images, checks, split.parent / "good.csv")
    (split.parent / "good.csv").write_text(text)
    again = read_data(split.parent / "good.csv")
    assert left == len(again.train) + len(again.valid) == 11 + 9
    assert not any(look(samples_of(again.splits, again.classes)).counts.values())
    assert "=data/train/tall/=1.png" in set(again.train.names)
    assert again.valid.names[-1].endswith("copy.png")


def test_a_split_that_was_only_drawn_is_not_written(photos: Path):
    images = read_data(photos)
    text, _ = cleaned(images, ordered(40, []), photos / "all.csv")
    assert {line.split(",")[2] for line in text.splitlines()[1:]} == {"train"}


def test_where_no_manifest_can_name_the_images_it_says_so(photos: Path, tmp_path: Path, stripes):
    with pytest.raises(UsageError, match="is not below"):
        cleaned(read_data(photos), ordered(40, []), tmp_path / "other" / "all.csv")
    with pytest.raises(UsageError, match="are not files"):
        cleaned(stripes, ordered(40, []), tmp_path / "all.csv")
    assert draw_images(1).names[0] == "picture-0"
