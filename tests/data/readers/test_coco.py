from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.cli import main
from frostline.data import read_data, read_for_evaluation
from frostline.data.images import ImageSet
from frostline.data.readers.coco import coco_table
from frostline.errors import DataError

NAMES = ("ant", "bee", "cat|dog", "é")
CATEGORIES = [{"id": 10 * i, "name": name, "supercategory": "all"} for i, name in enumerate(NAMES)]


def coco(labels: dict[str, list[int]], first: int = 1) -> dict[str, Any]:
    """A file that says of images which of the categories are marked in them, each twice."""
    images = [{"id": first + i, "file_name": name, "width": 4, "height": 4} for i, name in enumerate(labels)]
    marks = [(first + i, 10 * k) for i, held in enumerate(labels.values()) for k in held for _ in range(2)]
    annotations = [
        {"id": i, "image_id": image, "category_id": category, "bbox": [0, 0, 1, 1], "iscrowd": i % 2}
        for i, (image, category) in enumerate(marks)
    ]
    return {"info": {}, "images": images, "annotations": annotations, "categories": [*map(dict, CATEGORIES)]}


def write(file: Path, content: object, images: Path | None = None) -> Path:
    """The file, and an empty file for each image that it names, in a folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    if images is not None and isinstance(content, dict):
        images.mkdir(parents=True, exist_ok=True)
        for image in content["images"]:
            (images / image["file_name"]).touch()
    return file


def code(arguments: list[str]) -> object:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code


def same(one: ImageSet, other: ImageSet) -> bool:
    assert (one.classes, one.task, one.splits.keys()) == (other.classes, other.task, other.splits.keys())
    for left, right in zip(one.splits.values(), other.splits.values(), strict=True):
        assert list(left.names) == list(right.names)
        assert list(left.pictures) == list(right.pictures)
        assert np.array_equal(left.targets, right.targets)
    return True


SETS = st.lists(st.sets(st.integers(0, 3), max_size=3), min_size=4, max_size=12)


@given(SETS, SETS, st.sampled_from(["near", "apart", "roboflow"]), st.integers(0, 3))
def test_a_coco_file_says_what_a_manifest_says(train, valid, layout, seed):
    """All images, in their order, with the labels of one set in each of their splits."""
    train, valid = [{0}, {1}, *train], [held & set().union({0, 1}, *train) for held in valid] + [{0}]
    where = {"near": "", "apart": "train2017/", "roboflow": "train/"}[layout]
    elsewhere = {"near": "", "apart": "val2017/", "roboflow": "valid/"}[layout]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        parts = {"train": (where, train), "val": (elsewhere, valid)}
        lines = []
        for split, (place, sets) in parts.items():
            labels = {f"{split} {i}.jpg": sorted(held) for i, held in enumerate(sets)}
            file = {
                "near": root / f"instances_{split}.json",
                "apart": root / "annotations" / f"instances_{split}2017.json",
                "roboflow": root / place / "_annotations.coco.json",
            }[layout]
            write(file, coco(labels), root / place)
            lines += [
                json.dumps({"path": f"{place}{name}", "label": [NAMES[k] for k in held], "split": split})
                for name, held in labels.items()
                if held
            ]
        manifest = write(root / "manifest.jsonl", "\n".join(lines))
        assert same(read_data(root, seed), read_data(manifest, seed))


def test_one_label_per_image_is_a_classification(tmp_path):
    labels = {f"{i}.jpg": [i % 3] for i in range(9)}
    found = read_data(write(tmp_path / "zoo" / "annotations.json", coco(labels), tmp_path / "zoo"))
    assert (found.task, found.classes, found.name) == ("classification", ("ant", "bee", "cat|dog"), "zoo")
    assert found.notes[0].startswith("boxes and outlines are not used")
    assert found.notes[1] == "no annotation of annotations.json has the category é"
    assert same(found, read_data(tmp_path / "zoo"))


@pytest.mark.parametrize("place", ["", "images", "train", "images/train", "../train2017", "../images"])
def test_images_are_found_near_their_file(place, tmp_path):
    file = tmp_path / "zoo" / "annotations" / "instances_train2017.json"
    content = coco({f"{i}.jpg": [i % 2] for i in range(6)})
    if "train2017" not in place and "train" in place:
        file = file.with_name("instances_train.json")
    write(file, content, file.parent / place)
    table = coco_table(file)
    assert table is not None
    assert all((table.root / str(path)).is_file() for path in table.columns["path"])
    assert len(read_data(file).train) > 0


def test_images_elsewhere_are_named(tmp_path, capsys):
    file = write(tmp_path / "a" / "x.json", coco({f"{i}.jpg": [i % 2] for i in range(6)}), tmp_path / "b")
    with pytest.raises(DataError, match=r"6 of 6 records of \S+x.json name files that do not exist: 0.jpg \(image 1\)"):
        read_data(file)
    assert code(["check", str(file), "--images", str(tmp_path / "c")]) == 3
    assert "name files that do not exist" in capsys.readouterr().err


def test_images_elsewhere_can_be_given(tmp_path):
    from frostline.data.readers.columns import Wanted

    file = write(tmp_path / "a" / "x.json", coco({f"{i}.jpg": [i % 2] for i in range(6)}), tmp_path / "b")
    found = read_data(file, wanted=Wanted(images=tmp_path / "b"))
    assert {Path(str(p)).parent for p in found.train.pictures} == {tmp_path / "b"}


def test_images_without_an_annotation_and_annotations_without_an_image_are_noted(tmp_path):
    content = coco({"a.jpg": [0], "b.jpg": [1], "c.jpg": [], "d.jpg": [0, 1], "e.jpg": [1]})
    content["annotations"].append({"id": 99, "image_id": 77, "category_id": 0})
    found = read_data(write(tmp_path / "annotations.json", content, tmp_path))
    assert "skipped 1 image of annotations.json without an annotation: c.jpg" in found.notes
    assert "skipped 1 annotation of annotations.json: no image has the id 77" in found.notes
    assert found.task == "multilabel"
    assert sorted([*found.train.names, *found.valid.names]) == ["a.jpg", "b.jpg", "d.jpg", "e.jpg"]


def test_it_is_measured_by_the_names_of_classes(tmp_path):
    content = coco({f"{i}.jpg": [i % 2] for i in range(6)})
    write(tmp_path / "test" / "_annotations.coco.json", content, tmp_path / "test")
    write(tmp_path / "train" / "_annotations.coco.json", content, tmp_path / "train")
    images, split = read_for_evaluation(tmp_path, ("bee", "wasp", "ant"))
    assert (split, images.targets.tolist()) == ("test", [2, 0] * 3)
    with pytest.raises(DataError, match="classes that are not in the training data: bee"):
        read_for_evaluation(tmp_path, ("wasp", "ant"))


def changed(key: str, number: int, **values: Any) -> dict[str, Any]:
    content = coco({f"{i}.jpg": [i % 2] for i in range(6)})
    content[key][number] = {k: v for k, v in {**content[key][number], **values}.items() if v is not None}
    return content


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in coco({"a.jpg": [0]}).items() if k != key}


BROKEN = [
    ("{", r"x.json is not valid JSON \(.*\); export it again"),
    ("[1]", "x.json lacks images, annotations, categories; a COCO file has"),
    (without("annotations"), "x.json lacks annotations;"),
    (changed("images", 1, file_name=None), r"x.json: images\[1\] has no file_name; each needs id, file_name"),
    (changed("images", 1, id=1), r"0.jpg and 1.jpg share the id 1 in images; each needs its own"),
    (changed("images", 1, file_name="0.jpg"), r"x.json lists 0.jpg 2 times, with different ids"),
    (changed("categories", 1, id=0), "ant and bee share the id 0 in categories"),
    (changed("categories", 1, name=""), r"categories\[1\] has no name"),
    (changed("annotations", 3, category_id=[1]), r"annotations\[3\] has no category_id"),
    (
        changed("annotations", 3, category_id=7),
        r"1 annotation with an unknown category \(category_id 7\); the .* 0",
    ),
    (changed("images", 0, file_name="../../secret.jpg"), "leads out of"),
    ({**coco({"a.jpg": []})}, "has no image with an annotation"),
    ({**coco({"a.jpg": [0]}), "images": {}}, "images is not a list"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN)
def test_a_file_that_cannot_be_used_says_why(content, message, tmp_path):
    file = write(tmp_path / "x.json", content)
    for image in content["images"] if isinstance(content, dict) and isinstance(content["images"], list) else ():
        if image.get("file_name") and "/" not in image["file_name"]:
            (tmp_path / image["file_name"]).touch()
    with pytest.raises(DataError, match=message):
        read_data(file)


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 3)
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["0.jpg", ".", "/", ".."]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "name", "file_name"]), inner),
    max_leaves=4,
)


@given(st.sampled_from(["images", "annotations", "categories"]), st.integers(0, 1), st.data())
def test_whatever_a_file_says_it_is_read_or_told(key, number, data):
    content = coco({f"{i}.jpg": [i % 2] for i in range(4)})
    entry = content[key][number]
    place = data.draw(st.sampled_from([None, *entry]))
    if place is None:
        content[key] = data.draw(ODD)
    else:
        entry[place] = data.draw(ODD)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(4):
            (Path(folder) / f"{i}.jpg").touch()
        file = write(Path(folder) / "x.json", content)
        try:
            assert read_data(file).task in ("classification", "multilabel")
        except DataError as error:
            assert str(error)


def test_the_command_line_ends_with_3(tmp_path, capsys):
    file = write(tmp_path / "x.json", "{")
    assert code(["fit", str(file), "--out", str(tmp_path / "run")]) == 3
    assert "x.json is not valid JSON" in capsys.readouterr().err


def test_several_files_of_one_split_have_to_be_told_apart(tmp_path):
    for name in ("annotations_a.json", "annotations_b.json"):
        write(tmp_path / name, coco({"a.jpg": [0], "b.jpg": [1]}), tmp_path)
    with pytest.raises(DataError, match=r"several COCO files without a split in their name: annotations_a.json, anno"):
        read_data(tmp_path)


def test_captions_and_key_points_beside_instances_are_passed_over(tmp_path):
    for name in ("captions_train.json", "person_keypoints_train.json"):
        write(tmp_path / "annotations" / name, "{")
    write(tmp_path / "annotations" / "instances_train.json", coco({"a.jpg": [0], "b.jpg": [1]}), tmp_path / "train")
    assert read_data(tmp_path).classes == ("ant", "bee")


@pytest.mark.parametrize("name", ["annotations.json", "train.json", "other.json"])
def test_json_of_another_kind_does_not_hide_class_folders(name, tmp_path):
    for kind in ("ant", "bee"):
        (tmp_path / kind).mkdir()
        for i in range(3):
            (tmp_path / kind / f"{i}.jpg").touch()
    write(tmp_path / name, '{"version": 1}')
    assert read_data(tmp_path).classes == ("ant", "bee")
