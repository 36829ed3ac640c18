from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frostline.data import NAMED, read_data, read_for_evaluation
from frostline.data.decoding import open_image
from frostline.errors import DataError


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_digits_is_a_partition_of_all_digits(seed: int) -> None:
    digits = read_data("digits", seed)
    assert {name: len(split) for name, split in digits.splits.items()} == {"train": 1151, "valid": 287, "test": 359}
    names = [name for split in digits.splits.values() for name in split.names]
    assert sorted(names) == [f"digit-{i:04d}" for i in range(1797)]
    assert digits.name == "digits"
    assert digits.classes == tuple("0123456789")


def test_digits_splits_are_stratified() -> None:
    digits = read_data("digits")
    whole = np.bincount(np.concatenate([split.targets for split in digits.splits.values()]))
    for split, share in ((digits.train, 0.64), (digits.valid, 0.16), (digits.test, 0.2)):
        assert np.abs(np.bincount(split.targets) - share * whole).max() <= 1


def test_test_split_is_fixed_and_validation_follows_the_seed() -> None:
    sets = [read_data("digits", seed) for seed in range(4)]
    assert len({tuple(digits.test.names) for digits in sets}) == 1
    assert len({tuple(digits.valid.names) for digits in sets}) == 4
    assert list(read_data("digits", 3).train.names) == list(sets[3].train.names)


def test_digits_are_grey_pictures_of_full_contrast() -> None:
    train = read_data("digits").train
    picture = train.pictures[0]
    assert (picture.shape, picture.dtype) == ((8, 8), np.uint8)
    assert open_image(picture)[1]
    levels = np.unique(np.stack(train.pictures))
    assert (len(levels), levels[0], levels[-1]) == (17, 0, 255)
    assert (train.targets.dtype, train.targets.min(), train.targets.max()) == (np.int64, 0, 9)


def test_digits_carry_the_labels_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    labels = load_digits().target
    for split in read_data("digits").splits.values():
        assert [labels[int(name[-4:])] for name in split.names] == split.targets.tolist()


@pytest.mark.parametrize(
    ("split", "count", "chosen"),
    [("", 359, "test"), ("test", 359, "test"), ("valid", 287, "valid"), ("train", 1151, "train"), ("all", 1797, "all")],
)
def test_digits_for_evaluation(split: str, count: int, chosen: str) -> None:
    images, which = read_for_evaluation("digits", tuple("0123456789"), split)
    assert (len(images), which) == (count, chosen)


def test_digits_for_evaluation_are_matched_by_name() -> None:
    classes = (*"9876543210", "ten")
    images, _ = read_for_evaluation("digits", classes)
    assert images.targets.tolist() == (9 - read_data("digits").test.targets).tolist()


def test_digits_that_a_run_does_not_know() -> None:
    with pytest.raises(DataError, match=r"does not know: 8, 9; it knows 0, 1, 2"):
        read_for_evaluation("digits", tuple("01234567"))


def test_a_folder_goes_before_a_known_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("cat", "dog"):
        (tmp_path / "digits" / kind).mkdir(parents=True)
        for i in range(2):
            Image.new("L", (4, 4)).save(tmp_path / "digits" / kind / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    assert read_data("digits").classes == ("cat", "dog")
    assert read_for_evaluation("digits", ("cat", "dog"))[1] == "all"


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(DataError, match=r"no folder digit, and unknown data set 'digit'; nearest: digits"):
        read_data("digit")


def test_every_known_set_has_all_it_needs() -> None:
    for name, read in NAMED.items():
        images = read(0)
        assert images.name == name
        assert len(images.classes) > 1
        assert all(len(split) for split in images.splits.values())
