from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conftest import Counted, draw_images
from frostline.data import digests as module
from frostline.data.digests import digest
from frostline.data.images import Images, ImageSet, Paths, Texts, join
from frostline.data.masks import Masks


def images(count: int = 6, first: int = 0) -> Images:
    numbers = range(first, first + count)
    pictures = [np.full((2, 2, 3), i, np.uint8) for i in numbers]
    return Images(pictures, np.array([i % 3 for i in numbers], np.int64), [f"image-{i}" for i in numbers])


def levels(some: Images) -> list[int]:
    return [int(picture[0, 0, 0]) for picture in some.pictures]


rows = st.lists(st.integers(0, 5), max_size=10)


@given(rows)
def test_take_gives_those_images_in_that_order(chosen: list[int]) -> None:
    taken = images().take(np.array(chosen, np.int64))
    assert len(taken) == len(chosen)
    assert levels(taken) == chosen
    assert taken.targets.tolist() == [i % 3 for i in chosen]
    assert taken.targets.dtype == np.int64
    assert list(taken.names) == [f"image-{i}" for i in chosen]


@given(rows)
def test_take_carries_the_digests_along(chosen: list[int]) -> None:
    whole = images()
    assert whole.digests.all().shape == (6, 16)
    taken = whole.take(np.array(chosen, np.int64))
    assert taken.digests.known.all()
    assert taken.digests == [digest(picture) for picture in taken.pictures]


def test_take_of_an_array_of_pictures() -> None:
    pictures = np.arange(4, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    taken = Images(pictures, np.zeros(4, np.int64), list("abcd")).take(np.array([3, 1]))
    assert [int(picture[0, 0]) for picture in taken.pictures] == [3, 1]
    assert list(taken.names) == ["d", "b"]


@given(st.sets(st.integers(0, 5)))
def test_without_leaves_the_others_in_order(gone: set[int]) -> None:
    left = images().without(gone)
    assert levels(left) == [i for i in range(6) if i not in gone]
    assert left.targets.dtype == np.int64


def test_without_nothing_is_the_same() -> None:
    whole = images()
    assert whole.without(set()) is whole


def test_join_is_one_after_the_other() -> None:
    whole = join([images(2), images(0), images(3, first=4)])
    assert levels(whole) == [0, 1, 4, 5, 6]
    assert whole.targets.tolist() == [0, 1, 1, 2, 0]
    assert whole.targets.dtype == np.int64
    assert whole.names == ["image-0", "image-1", "image-4", "image-5", "image-6"]


@given(st.integers(0, 6))
def test_join_puts_back_what_take_took_apart(cut: int) -> None:
    whole = images()
    again = join([whole.take(np.arange(cut)), whole.take(np.arange(cut, 6))])
    assert levels(again) == levels(whole)
    assert again.digests == whole.digests


def test_digests_are_read_once(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("L", (2, 2)).save(file)
    some = Images([file], np.zeros(1, np.int64), ["a"])
    before = list(some.digests)
    file.write_bytes(b"changed")
    assert some.digests == before == list(some.take(np.array([0])).digests)
    assert Images([file], np.zeros(1, np.int64), ["a"]).digests != before


def test_digests_stay_in_order() -> None:
    whole = images(200)
    assert whole.digests == [digest(picture) for picture in whole.pictures]
    assert len(set(whole.digests)) == 200


@pytest.mark.parametrize("with_test", [True, False])
def test_splits_of_a_set(with_test: bool) -> None:
    whole = ImageSet("some", ("a", "b", "c"), images(3), images(2), images(1) if with_test else None)
    assert {name: len(split) for name, split in whole.splits.items()} == (
        {"train": 3, "valid": 2, "test": 1} if with_test else {"train": 3, "valid": 2}
    )


def test_validation_images_are_held_out_unless_they_are_those_for_training() -> None:
    some = images(4)
    assert ImageSet("some", ("a", "b", "c"), some.take(np.arange(2)), some.take(np.arange(2, 4))).held_out
    assert not ImageSet("some", ("a", "b", "c"), some, some.take(np.arange(4))).held_out


def test_with_splits_replaces_only_those_given() -> None:
    whole = ImageSet("some", ("a", "b", "c"), images(3), images(2), images(1), ("a note",))
    changed = whole.with_splits({"train": images(5)})
    assert (len(changed.train), changed.valid, changed.test) == (5, whole.valid, whole.test)
    assert (changed.name, changed.classes, changed.notes) == ("some", ("a", "b", "c"), ("a note",))
    assert len(whole.train) == 3


@pytest.mark.parametrize(
    ("targets", "task"),
    [
        (np.array([0, 1]), "classification"),
        (np.eye(2, dtype=bool), "multilabel"),
        (Masks([np.zeros((2, 2), np.uint8)] * 2, np.arange(256, dtype=np.uint8)), "segmentation"),
    ],
    ids=["one label", "several", "masks"],
)
def test_the_targets_tell_the_task_and_survive_taking_and_joining(targets, task) -> None:
    some = Images([np.zeros((2, 2, 3), np.uint8)] * 2, targets, ["x", "y"])
    assert some.task == ImageSet("some", ("a", "b"), some, some).task == task
    again = join([some.take(np.array([1])), some.take(np.array([0]))])
    assert (again.task, again.names, len(again.targets)) == (task, ["y", "x"], 2)


def test_labels_are_said_as_text(tmp_path: Path) -> None:
    classes = ("a", "b")
    several = Images([tmp_path] * 3, np.array([[1, 1], [0, 0], [0, 1]], bool), list("xyz"))
    assert several.labels(classes) == ["a|b", "", "b"]
    assert Images([tmp_path], np.array([1]), ["x"]).labels(classes) == ["b"]
    masks = Masks([tmp_path / "m.png"], np.arange(256, dtype=np.uint8))
    assert Images([tmp_path], masks, ["x"]).labels(classes) == ["m.png"]


def test_asking_for_one_digest_reads_one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    some = images(5)
    seen = []
    original = module._read
    monkeypatch.setattr(module, "_read", lambda picture: (seen.append(int(picture[0, 0, 0])), original(picture))[1])
    assert some.digests[3] == some.digests[3] == digest(some.pictures[2 + 1])
    assert some.take(np.array([3])).digests[0] == digest(some.pictures[3])
    assert seen.count(3) == 3  # once for all digests, and once each time by `digest`


def test_lists_of_files_and_names_are_kept_as_arrays(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.png" for i in range(4)]
    some = Images(files, np.zeros(4, np.int64), [file.name for file in files])
    assert isinstance(some.pictures, Paths)
    assert isinstance(some.names, Texts)
    taken = some.take(np.array([2, 0]))
    assert isinstance(taken.pictures, Paths)
    assert taken.pictures == [files[2], files[0]]
    both = join([taken, some])
    assert isinstance(both.pictures, Paths)
    assert both.pictures == [files[2], files[0], *files]
    assert both.names == ["2.png", "0.png", "0.png", "1.png", "2.png", "3.png"]


def test_taking_arrays_copies_no_pixels() -> None:
    pixels = np.zeros((10, 8, 8), np.uint8)
    some = Images(pixels, np.zeros(10, np.int64), list("abcdefghij"))
    twice = some.take(np.arange(1, 9)).take(np.array([6, 2]))
    assert all(np.shares_memory(picture, pixels[i]) for picture, i in zip(twice.pictures, (7, 3), strict=True))


def test_splits_are_joined_without_looking_at_a_picture():
    counted = Counted(4)
    lazy = Images(counted, np.arange(4) % 2, list("abcd"))
    whole = join([draw_images(3), lazy, draw_images(2, seed=1)])
    assert (len(whole.pictures), counted.asked) == (9, 0)
    np.testing.assert_array_equal(whole.pictures[5], counted[2])
    np.testing.assert_array_equal(whole.pictures[8], draw_images(2, seed=1).pictures[1])
    with pytest.raises(IndexError):
        whole.pictures[9]
