from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import write_photos
from frostline.cli import main
from frostline.data import read_data, read_for_evaluation
from frostline.errors import DataError

NAMES = "names: [ant, bee, cat]\n"


def layout(root: Path, split: str, sets: list[set[int]], above: bool = True) -> None:
    """Images that are empty files, each with a line for each of its classes."""
    place = {"": ""}.get(split, split)
    images, labels = ((root / place / k) if above else (root / k / place) for k in ("images", "labels"))
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for i, held in enumerate(sets):
        (images / f"{split}{i}.jpg").touch()
        (labels / f"{split}{i}.txt").write_text("".join(f"{k} 0.5 0.5 0.2 0.2\n" for k in sorted(held) * 2))


SETS = st.lists(st.sets(st.integers(0, 2), max_size=3), min_size=3, max_size=9)


@given(SETS, SETS, st.booleans(), st.booleans(), st.sampled_from(["val", "valid"]))
def test_labels_are_what_a_manifest_says(train, valid, above, told, called):
    train, valid = [{0}, {1}, {2}, *train], [*valid, {0}]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        layout(root, "train", train, above)
        layout(root, called, valid, above)
        image = "../{}/images" if above else "images/{}"
        entries = f"train: {image.format('train')}\nval: {image.format(called)}\n"
        (root / "data.yaml").write_text(entries * told + NAMES + "nc: 3\n")
        found = read_data(root)
        lines = ["path,label,split"]
        for split, sets in (("train", train), (called, valid)):
            for i, held in enumerate(sets):
                path = f"{split}/images/{split}{i}.jpg" if above else f"images/{split}/{split}{i}.jpg"
                if held:
                    lines.append(f"{path},{'|'.join(('ant', 'bee', 'cat')[k] for k in sorted(held))},{split}")
        (root / "manifest.csv").write_text("\n".join(lines))
        wanted = read_data(root / "manifest.csv")
        assert (found.classes, found.task) == (wanted.classes, wanted.task)
        for one, other in zip(found.splits.values(), wanted.splits.values(), strict=True):
            assert sorted(zip(one.names, one.labels(found.classes), strict=True)) == sorted(
                zip(other.names, other.labels(found.classes), strict=True)
            )


def test_folders_that_only_data_yaml_names(tmp_path):
    layout(tmp_path, "one2017", [{0}, {1}] * 4, above=False)
    layout(tmp_path, "two2017", [{1}, {0}], above=False)
    (tmp_path / "data.yaml").write_text(f"path: {tmp_path}\ntrain: images/one2017\nval: images/two2017\n{NAMES}")
    for data in (tmp_path, tmp_path / "data.yaml"):
        found = read_data(data)
        assert {name: len(part) for name, part in found.splits.items()} == {"train": 8, "valid": 2}
        assert found.classes == ("ant", "bee")


def test_training_that_is_validation_too_is_split(tmp_path):
    layout(tmp_path, "train2017", [{0}, {1}] * 10, above=False)
    (tmp_path / "coco8.yaml").write_text(f"path: .\ntrain: images/train2017\nval: images/train2017\n{NAMES}")
    found = read_data(tmp_path / "coco8.yaml")
    assert len(found.train) + len(found.valid) == 20
    assert found.validation == "split"


def test_names_by_number_in_classes_txt_or_nowhere(tmp_path):
    for name, file, text, classes in (
        ("a", "data.yaml", "names: {0: ant, 1: bee}", ("ant", "bee")),
        ("b", "labels/classes.txt", "ant\nbee\n", ("ant", "bee")),
        ("c", "readme.md", "", ("0", "1")),
    ):
        layout(tmp_path / name, "", [{0}, {1}, {0}, {1}])
        (tmp_path / name / file).write_text(text)
        found = read_data(tmp_path / name)
        assert found.classes == classes
        assert ("no class names" in " ".join(found.notes)) == (name == "c")


def test_images_without_a_mark_and_marks_without_an_image_are_noted(tmp_path):
    layout(tmp_path, "train", [{0}, {1}, set(), {0}, {1}])
    (tmp_path / "train" / "labels" / "train4.txt").unlink()
    (tmp_path / "train" / "labels" / "other.txt").write_text("0 1 1 1 1")
    (tmp_path / "data.yaml").write_text(NAMES)
    found = read_data(tmp_path)
    assert "skipped 2 images without a mark: train/images/train2.jpg, train/images/train4.jpg" in found.notes
    assert "skipped 1 label file without an image: train/labels/other.txt" in found.notes
    assert found.notes[0].startswith("boxes and outlines are not used")


@pytest.mark.parametrize(
    ("line", "names", "message"),
    [
        ("7 0 0 1 1", NAMES, r"train0.txt, line 2: the class 7 has no name; the names are 0 = ant, 1 = bee"),
        ("cat 0 0 1 1", NAMES, r"train0.txt, line 2: 'cat 0 0 1 1'; a mark needs class number, x, y"),
        ("0", "names: 3\n", r"data.yaml: names is 3; it must be a list"),
        ("0", "names: [ant, ant]\n", r"data.yaml: names has a duplicate"),
        ("0", "names: [\n", r"data.yaml is not valid YAML"),
        ("0", "- ant\n", r"data.yaml has no named entries"),
    ],
)
def test_what_cannot_be_used_says_why(line, names, message, tmp_path, capsys):
    layout(tmp_path, "train", [{0}, {1}])
    (tmp_path / "train" / "labels" / "train0.txt").write_text(f"1 0 0 1 1\n{line}\n")
    (tmp_path / "data.yaml").write_text(names)
    with pytest.raises(DataError, match=message):
        read_data(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["check", str(tmp_path)])
    assert end.value.code == 3
    assert "frostline: " in capsys.readouterr().err


def test_a_yaml_that_leads_nowhere(tmp_path):
    (tmp_path / "data.yaml").write_text(NAMES)
    with pytest.raises(DataError, match=r"has no images with labels; expected \S+train/images and \S+train/labels"):
        read_data(tmp_path / "data.yaml")


def test_it_is_measured_by_the_names_of_classes(tmp_path):
    layout(tmp_path, "train", [{0}, {1}] * 3)
    layout(tmp_path, "test", [{1}, {0}])
    (tmp_path / "data.yaml").write_text(NAMES)
    images, split = read_for_evaluation(tmp_path, ("cat", "bee", "ant"))
    assert (split, images.targets.tolist()) == ("test", [1, 2])


@pytest.mark.parametrize("text", ["- one\n", "{", "names: 7\npath: 3\n", "train: [a, b]\n"])
def test_a_yaml_of_something_else_does_not_hide_class_folders(text, tmp_path):
    photos = write_photos(tmp_path / "photos", 3)
    (photos / "dataset.yaml").write_text(text)
    assert read_data(photos).classes == ("flat", "tall")


def test_class_folders_beside_a_data_yaml_stay_class_folders(tmp_path):
    for split in ("train", "valid", "test"):
        write_photos(tmp_path / split, 3)
    (tmp_path / "data.yaml").write_text("train: ../train/images\nnames: [flat, tall]\n")
    found = read_data(tmp_path)
    assert (found.classes, found.task) == (("flat", "tall"), "classification")
    assert {name: len(part) for name, part in found.splits.items()} == {"train": 6, "valid": 6, "test": 6}
    assert np.bincount(found.test.targets).tolist() == [3, 3]


def test_the_names_are_the_text_that_was_written(tmp_path):
    for name, text in (("a", "names: [no, yes, 010]"), ("b", "names: {0: no, 1: yes, 2: 010}")):
        layout(tmp_path / name, "train", [{0}, {1}, {2}] * 2)
        (tmp_path / name / "data.yaml").write_text(text)
        assert read_data(tmp_path / name).classes == ("010", "no", "yes")


def test_an_empty_line_of_classes_txt_has_a_number_too(tmp_path):
    layout(tmp_path, "", [{0}, {2}, {0}, {2}])
    (tmp_path / "classes.txt").write_text("ant\n\nbee\n\n\n")
    found = read_data(tmp_path)
    assert found.classes == ("ant", "bee")
    every = [dict(zip(part.names, part.labels(found.classes), strict=True)) for part in (found.train, found.valid)]
    assert every[0] | every[1] == {f"images/{i}.jpg": "bee" if i % 2 else "ant" for i in range(4)}
    (tmp_path / "labels" / "0.txt").write_text("1 0 0 1 1\n")
    with pytest.raises(DataError, match="the class 1 has no name; the names are 0 = ant, 2 = bee"):
        read_data(tmp_path)


def test_a_split_that_the_description_does_not_name_is_told(tmp_path):
    layout(tmp_path, "train", [{0}, {1}] * 4)
    layout(tmp_path, "valid", [{0}, {1}])
    (tmp_path / "data.yaml").write_text(f"train: ../train/images\nval: elsewhere/images\n{NAMES}")
    found = read_data(tmp_path)
    assert "valid/images/ is not used: data.yaml does not name it" in found.notes
    assert found.validation == "split"
    (tmp_path / "data.yaml").write_text(f"train: ../train/images\nval: ../valid/images\n{NAMES}")
    assert not any("does not name it" in note for note in read_data(tmp_path).notes)


def test_a_split_without_labels_is_told(tmp_path):
    layout(tmp_path, "train", [{0}, {1}] * 4)
    (tmp_path / "valid" / "images").mkdir(parents=True)
    (tmp_path / "valid" / "images" / "0.jpg").touch()
    (tmp_path / "data.yaml").write_text(NAMES)
    assert f"{tmp_path / 'valid'} is not used: it needs both images and labels" in read_data(tmp_path).notes
