"""Predictions from Python, and the labels of what is predicted."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import frostline
from conftest import SIZE, draw_images, small_model, write_photos
from frostline.backbones import load_backbone
from frostline.classifier.classifier import Prediction
from frostline.data.readers import table
from frostline.errors import DataError, UsageError
from frostline.preprocessing import Preprocessing
from frostline.verbs.predict import Inputs, Tally, predict, read_inputs


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos") / "photos", 8)


@pytest.fixture(scope="module")
def run(tmp_path_factory, photos):
    folder = tmp_path_factory.mktemp("run")
    backbone = load_backbone(small_model(), preprocessing=Preprocessing(size=SIZE, resize=36))
    options = {"backbone": backbone, "plan": "probe", "store": folder / "cache", "quiet": True}
    return frostline.fit(photos, out=folder / "run", **options)


@pytest.fixture(scope="module")
def classifier(run):
    return frostline.load(run, model=small_model())


def test_one_value_is_meant_as_one(run, photos):
    """Stumbles 3 and 4."""
    file = next(photos.rglob("*.png"))
    with Image.open(file) as image:
        array = np.asarray(image.convert("RGB"))
    for one in (file, str(file), array, Image.fromarray(array)):
        (prediction,) = predict(run, one, model=small_model())
        assert prediction.label in ("flat", "tall")
    assert len(predict(run, [file, array], model=small_model())) == 2
    for folder in (file.parent, str(file.parent), [str(file.parent)]):
        assert len(predict(run, folder, model=small_model())) == 8
    assert len(predict(run, draw_images(5).pictures, model=small_model())) == 5


def test_predictions_are_right_as_often_as_evaluate_says(run, classifier, photos):
    tally = Tally()
    assert len(list(tally.counted([read_inputs([photos], classifier)], classifier.predict_images))) == 16
    evaluated = frostline.evaluate(run, photos, split="all", model=small_model())
    assert {key: evaluated[key] for key in ("accuracy", "interval", "n")} == tally.measured


def test_labels_of_a_tree_and_a_manifest_are_known(classifier, photos, tmp_path):
    tree = read_inputs([photos], classifier)
    assert list(tree.labels) == [name.split("/")[-2] for name in tree.images.names]
    assert [str(picture) for picture in tree.images.pictures] == list(tree.images.names)
    lines = [f"{file.relative_to(photos.parent)},{file.parent.name}" for file in sorted(photos.rglob("*.png"))]
    (photos.parent / "all.csv").write_text("\n".join(["path,label", *lines]))
    manifest = read_inputs([photos.parent / "all.csv"], classifier)
    assert dict(zip(manifest.images.names, manifest.labels, strict=True)) == dict(
        zip(tree.images.names, tree.labels, strict=True)
    )
    both = read_inputs([photos, photos.parent / "all.csv"], classifier)
    assert both.labels == (*tree.labels, *manifest.labels)


def test_labels_that_are_not_all_known_are_none(classifier, photos, tmp_path):
    file = next(photos.rglob("*.png"))
    assert read_inputs([file], classifier).labels is None
    assert read_inputs([photos, file], classifier).labels is None
    assert read_inputs([photos / "flat"], classifier).labels is None
    others = write_photos(tmp_path / "others", 2, ("flat", "round"))
    assert read_inputs([others], classifier).labels is None
    tree = write_photos(tmp_path / "tree", 2)
    Image.new("RGB", (9, 7)).save(tree / "beside.png")
    inputs = read_inputs([tree], classifier)
    assert (len(inputs.images), inputs.labels) == (5, None)
    assert read_inputs(["digits"], classifier).labels is None


def test_a_folder_with_splits_is_predicted_whole(classifier, tmp_path):
    write_photos(tmp_path / "data" / "train", 3)
    write_photos(tmp_path / "data" / "test", 2)
    inputs = read_inputs([tmp_path / "data"], classifier)
    assert len(inputs.images) == 10
    assert inputs.labels.count("tall") == 5


def test_nothing_to_predict_is_an_error_and_nothing_among_others_is_none(classifier, photos, tmp_path):
    with pytest.raises(UsageError, match=f"no images in {tmp_path}"):
        read_inputs([tmp_path], classifier)
    assert len(read_inputs([tmp_path, photos], classifier).images) == 16
    (tmp_path / "no.csv").write_text("path,label\ngone.png,flat\n")
    with pytest.raises(DataError, match="files that do not exist"):
        read_inputs([tmp_path / "no.csv"], classifier)


def test_unreadable_images_count_for_nothing():
    predictions = [Prediction("a", "x", 0.9), Prediction("b", error="empty file"), Prediction("c", "y", 0.8)]
    three = draw_images(3)
    tally = counted(predictions, Inputs(three, ("x", "x", "x")))
    assert (tally.images, tally.failed, tally.measured["accuracy"]) == (3, 1, 0.5)
    none = counted(predictions[1:2], Inputs(three, ("x",)))
    assert none.measured == {"accuracy": None, "interval": [0.0, 1.0], "n": 0}


def test_parts_are_counted_together_and_one_without_labels_leaves_no_accuracy():
    predictions, three = [Prediction("a", "x", 0.9)] * 3, draw_images(3)
    parts = [Inputs(three, ("x", "x", "y")), Inputs(three, ("x", "y", "y"))]
    assert counted(predictions, *parts).measured["accuracy"] == 0.5
    assert counted(predictions, *parts, Inputs(three)).measured is None
    assert counted(predictions, Inputs(three), *parts).measured is None


def counted(predictions: list[Prediction], *parts: Inputs) -> Tally:
    tally = Tally()
    assert list(tally.counted(parts, lambda _: iter(predictions))) == predictions * len(parts)
    return tally


def test_a_manifest_is_read_once(classifier, photos, tmp_path, monkeypatch):
    read, original = [], table._read
    monkeypatch.setattr(table, "_read", lambda path: (read.append(path), original(path))[1])
    lines = [f"{file},{file.parent.name}" for file in sorted(photos.rglob("*.png"))]
    (photos / "once.csv").write_text("\n".join(["path,label", *(line.removeprefix(f"{photos}/") for line in lines)]))
    assert read_inputs([photos / "once.csv"], classifier).labels is not None
    assert read == [photos / "once.csv"]
    (photos / "once.csv").unlink()


def test_files_of_a_folder_that_are_no_images_are_said(classifier, tmp_path, capsys):
    """Stumble 29."""
    folder = write_photos(tmp_path / "new", 1)
    (folder / "a.gif").write_bytes(b"GIF89a")
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / ".hidden").write_bytes(b"x")
    assert len(read_inputs([folder], classifier).images) == 2
    assert "note: skipped 2 files without an image extension: Thumbs.db, a.gif" in capsys.readouterr().err
