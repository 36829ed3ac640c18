from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conftest import draw, draw_images
from frostline.data import digests, read_data, read_for_evaluation
from frostline.data.grouping import grouped, groups_of, series_of
from frostline.data.images import Images, ImageSet, join
from frostline.data.masks import Masks
from frostline.data.split import image_set, split, whole_groups
from frostline.errors import DataError


def videos(count: int, frames: int = 6) -> ImageSet:
    """Frames of videos, each of one class, in no order."""
    order = np.random.default_rng(0).permutation(count * frames)
    targets = (np.arange(count * frames) // frames % 3)[order]
    names = [f"video{i // frames}_{i % frames:04}.png" for i in order]
    pictures = np.arange(len(order), dtype=np.uint16).view(np.uint8).reshape(-1, 1, 2)  # all different
    return image_set("videos", ("a", "b", "c"), {"train": Images(pictures, targets, names)}, 0)


@given(st.integers(6, 40), st.integers(3, 9), st.integers(0, 99))
def test_no_group_is_in_two_splits_and_no_image_is_lost(count, frames, seed):
    images = videos(count, frames)
    parts = grouped(images, "names", "videos", seed).splits
    groups = {split: {name.partition("_")[0] for name in part.names} for split, part in parts.items()}
    assert not groups["train"] & groups["valid"]
    assert groups["valid"]
    before = sorted(name for part in images.splits.values() for name in part.names)
    assert sorted(name for part in parts.values() for name in part.names) == before
    assert set(parts["train"].targets) == {0, 1, 2}


def test_every_class_with_two_groups_is_held_out_by_a_fifth_of_its_groups():
    parts = grouped(videos(30), "names", "videos", 0).splits
    assert np.bincount(parts["valid"].targets).tolist() == [12, 12, 12]


def test_labels_stay_with_their_images():
    images = videos(9)
    label = {name: int(t) for part in images.splits.values() for name, t in zip(part.names, part.targets, strict=True)}
    for part in grouped(images, "names", "videos", 3).splits.values():
        assert [label[name] for name in part.names] == part.targets.tolist()


def test_splits_that_are_given_stay():
    images = videos(9)
    given_ = ImageSet("given", images.classes, images.train, images.valid)
    found = grouped(given_, "names", "videos", 0)
    assert list(found.valid.names) == list(images.valid.names)
    assert found.groups["video3_0001.png"] == "video3"


@pytest.fixture
def manifest(tmp_path):
    chance = np.random.default_rng(0)
    rows = []
    for i in range(24):
        Image.fromarray(draw(i % 2, chance)).save(tmp_path / f"{i}.png")
        rows.append([f"{i}.png", ("flat", "tall")[i % 2], f"p{i // 4}"])
    with (tmp_path / "all.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "Patient"], *rows])
    return tmp_path / "all.csv"


def test_a_column_of_a_manifest_groups(manifest):
    images = read_data(manifest, group="patient")
    patient = {f"{i}.png": f"p{i // 4}" for i in range(24)}
    assert dict(images.groups) == patient
    held_out = {patient[name] for name in images.valid.names}
    assert len(images.valid) == 4 * len(held_out)
    assert not held_out & {patient[name] for name in images.train.names}
    assert read_data(images, group="patient") is images


@pytest.mark.parametrize(
    ("group", "text"),
    [
        ("doctor", "no column doctor; it has path, label, patient"),
        ("path", "a different value for each"),
        ("names", "look like a series"),
    ],
)
def test_what_groups_nothing_is_refused(group, text, manifest):
    with pytest.raises(DataError, match=text):
        read_data(manifest, group=group)


def test_one_group_cannot_be_held_out(tmp_path, manifest):
    text = manifest.read_text().splitlines()
    manifest.write_text("\n".join([text[0], *(line.rpartition(",")[0] + ",same" for line in text[1:])]))
    with pytest.raises(DataError, match="no group of .* can be held out"):
        read_data(manifest, group="patient")


def test_a_column_needs_a_manifest(tmp_path):
    with pytest.raises(DataError, match="names a column of a manifest"):
        read_data((draw_images(12).pictures, draw_images(12).targets), group="patient")


def test_series_are_told_by_names():
    assert series_of(["p1_1.png", "p1_2.png", "p1_3.png", "p2_1.png", "x.png"]) == ["p1", "p1", "p1", "", ""]


def test_a_class_keeps_a_group_to_learn_from_and_images_count_not_groups():
    """A large group of one class and many small ones: about a fifth of the images goes, and C stays learnable."""
    targets = np.array([0] * 96 + [1] * 120 + [2] * 4)
    groups = ["big"] * 96 + [f"b{i // 4}" for i in range(120)] + ["only"] * 4
    for seed in range(25):
        held_out = whole_groups(targets, groups, 0.2, seed)
        assert {0, 2} <= set(targets[~held_out])
        assert 20 <= held_out.sum() <= 28
        assert {groups[i] for i in np.flatnonzero(held_out)}.isdisjoint(groups[i] for i in np.flatnonzero(~held_out))


def test_repeated_records_of_an_image_say_one_group(manifest):
    text = manifest.read_text().splitlines()
    again = [f"./{line.rpartition(',')[0]}," for line in text[1:10]]
    manifest.write_text("\n".join([*text, *again]))
    assert dict(read_data(manifest, group="patient").groups) == {f"{i}.png": f"p{i // 4}" for i in range(24)}
    manifest.write_text("\n".join([*text, f"{text[1].rpartition(',')[0]},other"]))
    with pytest.raises(DataError, match="two values for 0.png in the column patient: p0 and other"):
        read_data(manifest, group="patient")


def test_cells_that_say_nothing_are_no_group(manifest):
    lines = [
        json.dumps({"path": f"{i}.png", "label": "ab"[i % 2], "patient": i // 4 if i < 12 else float("nan")})
        for i in range(24)
    ]
    file = manifest.with_suffix(".jsonl")
    file.write_text("\n".join(lines))
    assert dict(read_data(file, group="patient").groups) == {f"{i}.png": str(i // 4) for i in range(12)}


def test_the_same_frames_in_two_folders_are_two_series():
    names = [f"train/{folder}/video1_{i}.png" for folder in "ab" for i in range(4)]
    assert series_of(names) == ["a/video1"] * 4 + ["b/video1"] * 4
    shared = [f"{'ab'[i % 2]}/video1_{i}.png" for i in range(8)]  # frames of one video, sorted into classes
    assert series_of(shared) == ["video1"] * 8


def test_several_labels_and_masks_are_held_out_by_groups():
    labels = np.random.default_rng(0).random((60, 3)) < 0.5
    groups = [str(i // 6) for i in range(60)]
    held_out = whole_groups(labels, groups, 0.2, 0)
    assert 6 <= held_out.sum() <= 18
    masks = Masks([np.zeros((4, 4), np.uint8)] * 60, np.arange(256, dtype=np.uint8))
    assert whole_groups(masks, groups, 0.2, 0).sum() == 12


def test_series_with_a_gap_and_series_by_the_same_step_are_series():
    gap = [f"patient03_{i:03}.jpg" for i in (*range(8), *range(50, 58))]
    steps = [f"video7_{i}.png" for i in range(0, 100, 10)]
    assert set(series_of(gap)) == {"patient03"}
    assert set(series_of(steps)) == {"video7"}
    spread = [f"pet2_{i}.png" for i in (3, 57, 812, 990)]
    assert set(series_of(spread)) == {""}
    assert set(series_of(spread, told=True)) == {"pet2"}  # somebody says so
    assert series_of(["pet2_3.png", "dog.png"], told=True) == ["", ""]


def test_a_column_that_says_nothing_is_refused(tmp_path):
    file = tmp_path / "photos.csv"
    file.write_text("path,label,patient\na.png,cat,\nb.png,dog,\n")
    with pytest.raises(DataError, match="the column patient of .* is empty for all images"):
        groups_of(["a.png", "b.png"], "patient", file)


def photos(folder, counts: dict[str, int]):
    """A folder of class folders; all files have the same size, and no two have the same content."""
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.full((8, 8, 3), 7 * i + number, np.uint8)).save(folder / name / f"{i}.bmp")


def copied(folder, copies: int = 12):
    """A folder of two classes; each image of the first one exists twice."""
    photos(folder, {"a": copies, "b": 30})
    for i, file in enumerate(sorted((folder / "a").iterdir())):
        (folder / "a" / f"z{i}{file.suffix}").write_bytes(file.read_bytes())
    return folder


def test_an_image_and_its_copies_are_on_one_side_of_a_split(tmp_path):
    """Stumble 2."""
    images = read_data(copied(tmp_path / "data"))
    digests = {split: {bytes(each) for each in part.digests} for split, part in images.splits.items()}
    assert images.validation == "split"
    assert not digests["train"] & digests["valid"]
    assert np.bincount(images.train.targets).tolist() == [20, 24]
    assert np.bincount(images.valid.targets).tolist() == [4, 6]


def test_arrays_are_parted_by_content_too():
    pictures = np.repeat(np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8), 2, axis=0)
    images = read_data((pictures, [f"{i % 2}" for i in range(20) for _ in range(2)]))
    held_out = {picture.tobytes() for picture in images.valid.pictures}
    assert len(images.valid) == 8
    assert held_out.isdisjoint(picture.tobytes() for picture in images.train.pictures)


def test_a_split_without_copies_is_that_of_the_names(tmp_path):
    photos(tmp_path, {"a": 20, "b": 20})
    images = read_data(tmp_path)
    own = split(join([images.train, images.valid]), 0.2)
    assert list(images.valid.names) == sorted(own[1].names)


def test_a_class_of_copies_of_another_class_stays_in_training(tmp_path):
    photos(tmp_path, {"a": 10, "b": 2})
    for i, file in enumerate(sorted((tmp_path / "a").iterdir())[:2]):
        sorted((tmp_path / "b").iterdir())[i].write_bytes(file.read_bytes())
    images = read_data(tmp_path)
    assert (images.train.targets == 1).sum() == 2
    assert any("no validation images" in note and "b" in note for note in images.notes)


def test_the_split_of_a_known_data_set_is_that_of_its_evaluation():
    images = read_data("digits", 3)
    measured, _ = read_for_evaluation("digits", images.classes, "valid", seed=3)
    assert list(measured.names) == list(images.valid.names)


class OnDemand:
    """Decodes an image whenever it is asked for it; images 2 i and 2 i + 1 are equal."""

    def __len__(self):
        return 20

    def __getitem__(self, i):
        return np.full((8, 8, 3), i // 2, np.uint8), i // 2 % 2


def test_items_of_a_dataset_are_not_decoded_for_the_split(monkeypatch):
    monkeypatch.setattr(digests.Digests, "contents", lambda *_: pytest.fail("the images were compared"))
    assert len(read_data(OnDemand()).valid) == 4


def test_groups_that_share_an_image_are_one(tmp_path):
    """A photograph of patient 1 that is also filed under patient 2 would be in both splits."""
    photos(tmp_path, {"a": 12, "b": 12})
    files = sorted(tmp_path.rglob("*.bmp"))
    patients = {file: f"p{i % 6}" for i, file in enumerate(files)}
    (tmp_path / "copy.bmp").write_bytes(files[0].read_bytes())  # of p0
    rows = [(file, file.parent.name, patients[file]) for file in files] + [(tmp_path / "copy.bmp", "a", "p1")]
    with (tmp_path / "m.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "label", "patient"), *((f.relative_to(tmp_path), *r) for f, *r in rows)])
    images = read_data(tmp_path / "m.csv", group="patient")
    assert images.groups["copy.bmp"] == images.groups[str(files[0].relative_to(tmp_path))] == "p0"
    assert len({*images.groups.values()}) == 5
