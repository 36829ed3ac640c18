"""One way in for every kind of data: read, measured against a run's classes, or only classified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from conftest import draw_images, write_photos
from frostline.data import read_data, read_for_evaluation, read_unlabelled
from frostline.data.images import Images, ImageSet
from frostline.data.masks import Masks
from frostline.errors import DataError, UsageError

TWO = ("flat", "tall")


def write_masks(root: Path, count: int = 6) -> Path:
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (6, 4), (40 * i, 0, 0)).save(root / "images" / f"{i}.png")
        Image.fromarray(np.eye(4, 6, dtype=np.uint8)).save(root / "masks" / f"{i}.png")
    return root


def write_manifest(root: Path) -> Path:
    write_photos(root, 5)
    rows = [f"{kind}/{i:03}.png,{kind},{'val' if i == 4 else 'train'}" for kind in TWO for i in range(5)]
    (root / "list.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")
    return root / "list.csv"


def arrays(count: int = 20) -> tuple[np.ndarray, np.ndarray]:
    images = draw_images(count, 2)
    return np.stack(list(images.pictures)), images.targets


def kinds(folder: Path) -> dict[str, tuple[object, str, tuple[str, ...]]]:
    """Data of every kind with the task and the classes that it has."""
    pictures, targets = arrays()
    tensors = TensorDataset(torch.from_numpy(pictures), torch.from_numpy(targets))
    numbers = ("0", "1")
    return {
        "folder": (write_photos(folder / "photos", 5), "classification", TWO),
        "text": (str(folder / "photos"), "classification", TWO),
        "masks": (write_masks(folder / "masks"), "segmentation", ("background", "foreground")),
        "manifest": (write_manifest(folder / "listed"), "classification", TWO),
        "name": ("digits", "classification", tuple("0123456789")),
        "arrays": ((pictures, targets), "classification", numbers),
        "several labels": ((pictures, np.eye(2)[targets]), "multilabel", numbers),
        "dataset": (tensors, "classification", numbers),
        "mapping": ({"train": (pictures, targets), "val": (pictures[:4], targets[:4])}, "classification", numbers),
    }


def test_every_kind_of_data_is_read(tmp_path):
    for kind, (data, task, classes) in kinds(tmp_path).items():
        found = read_data(data)
        assert (kind, found.task, found.classes) == (kind, task, classes)
        assert len(found.train) > 0
        assert len(found.valid) > 0
        assert {part.task for part in found.splits.values()} == {task}


def test_every_kind_of_data_can_be_measured_by_its_own_classes(tmp_path):
    for kind, (data, task, classes) in kinds(tmp_path).items():
        whole = read_data(data)
        images, split = read_for_evaluation(data, classes, task=task)
        assert (kind, images.task) == (kind, task)
        wanted = {"name": "test", "manifest": "valid", "mapping": "valid"}.get(kind, "all")
        assert (kind, split) == (kind, wanted)
        count = len(whole.splits[wanted]) if wanted != "all" else len(whole.train) + len(whole.valid)
        assert (kind, len(images)) == (kind, count)


def test_classes_are_matched_by_name_whatever_their_order(tmp_path):
    photos = write_photos(tmp_path / "photos", 3)
    for classes in (TWO, TWO[::-1], ("other", "tall", "flat")):
        images, _ = read_for_evaluation(photos, classes)
        assert [classes[t] for t in images.targets] == [name.partition("/")[0] for name in images.names]


def image_set(targets: object, classes: tuple[str, ...] = ("a", "b", "c")) -> ImageSet:
    pictures = [np.full((2, 2, 3), i, np.uint8) for i in range(3)]
    images = Images(pictures, targets, list("xyz"))
    return ImageSet("set", classes, images, images)


def test_class_numbers_are_renumbered():
    images, split = read_for_evaluation(image_set(np.array([0, 1, 2])), ("c", "d", "b", "a"))
    assert (images.targets.tolist(), split) == ([3, 2, 0], "valid")


def test_labels_are_renumbered():
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]], bool)
    images, _ = read_for_evaluation(image_set(labels), ("b", "d", "a"), task="multilabel")
    assert images.targets.tolist() == [[False, False, True], [True, False, True], [False, False, False]]
    assert images.targets.dtype == np.bool_


def test_masks_are_renumbered_and_nothing_stays_nothing(tmp_path):
    Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8)).save(tmp_path / "mask.png")
    numbers = np.full(256, 255, np.uint8)
    numbers[:3] = [0, 1, 2]
    masks = Masks([tmp_path / "mask.png"] * 3, numbers)
    images, _ = read_for_evaluation(image_set(masks), ("c", "a", "d", "b"), task="segmentation")
    assert np.asarray(images.targets.read(0)).tolist() == [[1, 3], [0, 255]]


@pytest.mark.parametrize("targets", [np.array([0, 1, 2]), np.eye(3, dtype=bool)], ids=["one", "several"])
def test_a_class_that_the_run_does_not_know_is_refused_where_it_is_used(targets):
    task = "classification" if targets.ndim == 1 else "multilabel"
    with pytest.raises(DataError, match="does not know these classes: c; it knows a, b"):
        read_for_evaluation(image_set(targets), ("a", "b"), task=task)
    unused = targets.copy()
    unused[2] = unused[1]
    assert len(read_for_evaluation(image_set(unused), ("a", "b"), task=task)[0]) == 3


def test_labels_of_another_task_are_refused(tmp_path):
    cases = [
        (image_set(np.array([0, 1, 2])), "multilabel"),
        (image_set(np.eye(3, dtype=bool)), "classification"),
        (write_photos(tmp_path / "photos", 2, ("a", "b")), "multilabel"),
        (arrays(), "segmentation"),
    ]
    for data, task in cases:
        with pytest.raises(DataError, match=f"the run learned {task}"):
            read_for_evaluation(data, ("a", "b", "c", "0", "1"), task=task)


@pytest.mark.parametrize("split", ["train", "valid", "test", "all"])
def test_a_split_can_be_chosen(split):
    digits = read_data("digits")
    images, choice = read_for_evaluation("digits", digits.classes, split)
    assert choice == split
    assert len(images) == (1797 if split == "all" else len(digits.splits[split]))


def test_a_split_that_is_not_there():
    with pytest.raises(DataError, match="set has no test split; it has train, valid"):
        read_for_evaluation(image_set(np.array([0, 1, 2])), ("a", "b", "c"), "test")


def test_a_mapping_is_measured_whole_or_by_split():
    pictures, targets = arrays()
    data = {"train": (pictures, targets), "test": (pictures[:3], targets[:3])}
    for split, count in (("", 3), ("train", 20), ("all", 23)):
        assert len(read_for_evaluation(data, ("0", "1"), split)[0]) == count


def test_an_image_set_is_returned_as_it_is(stripes):
    assert read_data(stripes) is stripes


def test_a_name_knows_its_augmentation_and_its_root(tmp_path):
    assert read_data("digits").augment == "digits"
    with pytest.raises(DataError, match=f"no mnist at {tmp_path}"):
        read_data(f"mnist:{tmp_path}")
    with pytest.raises(UsageError, match="has no root"):
        read_data(f"digits:{tmp_path}")


def test_a_folder_of_the_name_of_a_data_set_comes_first(tmp_path, monkeypatch):
    write_photos(tmp_path / "digits", 5)
    monkeypatch.chdir(tmp_path)
    assert read_data("digits").classes == TWO
    assert len(read_unlabelled(["digits"])) == 10


def test_the_spelling_of_a_folder_decides_nothing(tmp_path, monkeypatch):
    write_photos(tmp_path / "photos", 10)
    monkeypatch.chdir(tmp_path / "photos")
    spellings = [".", "./", "../photos", str(tmp_path / "photos"), str(tmp_path / "." / "photos" / ".." / "photos")]
    found = [read_data(spelling) for spelling in spellings]
    assert {images.name for images in found} == {Path(images.origin).name for images in found} == {"photos"}
    assert len({tuple(images.valid.names) for images in found}) == 1


def test_data_that_are_not_there_are_named(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    for data, message in (
        (tmp_path / "none", "no such folder"),
        ("digitz", "nearest: digits"),
        (tmp_path / "notes.txt", r"is a file; give a folder of class folders, a manifest"),
        (7, "cannot be indexed"),
    ):
        with pytest.raises(DataError, match=message):
            read_data(data)


def test_images_without_labels_come_from_files_folders_and_names(tmp_path):
    photos = write_photos(tmp_path / "photos", 3)
    found = read_unlabelled([photos / "tall" / "001.png", photos, "digits"])
    digits = read_data("digits").test
    assert len(found) == 1 + 6 + len(digits)
    assert found.names[:2] == [str(photos / "tall" / "001.png"), str(photos / "flat" / "000.png")]
    assert list(found.names[7:]) == list(digits.names)


def test_a_file_that_is_not_there_is_kept_for_its_error(tmp_path):
    assert read_unlabelled([tmp_path / "none.png"]).names == [str(tmp_path / "none.png")]


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(UsageError, match=f"no images in {tmp_path}"):
        read_unlabelled([tmp_path])


def test_a_path_with_the_separator_of_the_system_is_no_name(monkeypatch):
    monkeypatch.setattr("os.sep", "\\")
    with pytest.raises(DataError, match="no such folder"):
        read_data("photos\\pets")
