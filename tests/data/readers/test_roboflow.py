"""Roboflow's exports of several labels per image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frostline.data import read_data, read_for_evaluation
from frostline.errors import DataError

ROWS = ("1, 0", "0, 1", "1, 1", "0, 0")


def export(root: Path, *splits: str, rows: tuple[str, ...] = ROWS, header: str = "filename, cat, big dog") -> Path:
    """A folder as it is exported: images and `_classes.csv` in the folder of each split."""
    for split in splits:
        (root / split).mkdir(parents=True, exist_ok=True)
        for i in range(len(rows)):
            Image.new("L", (4, 4), i).save(root / split / f"{i}.jpg")
        lines = [header, *(f"{i}.jpg, {row}" for i, row in enumerate(rows))]
        (root / split / "_classes.csv").write_text("\n".join(lines) + "\n")
    return root


def test_each_split_has_a_table(tmp_path: Path) -> None:
    images = read_data(export(tmp_path / "pets", "train", "valid", "test"))
    assert (images.name, images.classes, images.task) == ("pets", ("big dog", "cat"), "multilabel")
    assert list(images.train.names) == [f"train/{i}.jpg" for i in range(4)]
    assert images.train.targets.tolist() == [[False, True], [True, False], [True, True], [False, False]]
    assert (len(images.valid), len(images.test)) == (4, 4)
    assert all(Path(picture).is_file() for picture in images.test.pictures)
    measured, split = read_for_evaluation(tmp_path / "pets", images.classes, task="multilabel")
    assert (split, list(measured.names)) == ("test", list(images.test.names))


def test_one_label_each_is_a_classification(tmp_path: Path) -> None:
    images = read_data(export(tmp_path, "train", "valid", rows=ROWS[:2] * 3))
    assert (images.classes, images.task) == (("big dog", "cat"), "classification")
    assert np.bincount(images.train.targets).tolist() == [3, 3]


def test_a_table_without_splits(tmp_path: Path) -> None:
    images = read_data(export(tmp_path, ".", rows=ROWS * 5))
    assert (len(images.train), len(images.valid)) == (16, 4)


def test_a_table_that_is_none_of_labels_is_left_to_others(tmp_path: Path) -> None:
    root = export(tmp_path, "train", header="Pixel Value, Class, note")
    with pytest.raises(DataError, match="no images under"):
        read_data(root)


def test_a_mark_that_is_neither_0_nor_1_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train/_classes\.csv has no label column"):
        read_data(export(tmp_path, "train", rows=("2, 0", "0, x")))
