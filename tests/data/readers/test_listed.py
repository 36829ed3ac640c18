"""What names say: classes, splits, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest

from frostline.data.parts import Bucket
from frostline.data.readers.listed import Listed, by_folders, listed_for, listed_set
from frostline.data.texts import Texts
from frostline.errors import DataError

PLAIN = [f"{kind}/{i}.jpg" for kind in ("cat", "dog") for i in range(5)]
APART = [f"{split}/{name}" for split in ("train", "val", "test") for name in PLAIN]


def of(names: list[str]) -> Listed:
    chosen, labels, classes, splits, notes = by_folders(names, "s3://b")
    texts = Texts.of(names)[chosen]
    return Listed("s3://b", "b", Bucket("s3://b", None).pictures(texts), texts, labels, classes, splits, tuple(notes))


def test_folders_are_classes_and_splits():
    found = listed_set(of(PLAIN), 0)
    assert (found.classes, len(found.train), len(found.valid), found.validation) == (("cat", "dog"), 8, 2, "split")
    found = listed_set(of(APART), 0)
    assert (len(found.train), len(found.valid), len(found.test or [])) == (10, 10, 10)
    assert found.train.targets.tolist() == [0] * 5 + [1] * 5
    images, split = listed_for(of(APART), ("dog", "cat"), "")
    assert (split, images.targets.tolist()) == ("test", [1] * 5 + [0] * 5)
    assert len(listed_for(of(APART), ("dog", "cat"), "all")[0]) == 30
    assert listed_for(of(PLAIN), ("cat", "dog"), "")[1] == "all"


def test_a_class_may_be_called_train():
    assert listed_set(of([*PLAIN, "train/1.jpg", "train/2.jpg"]), 0).classes == ("cat", "dog", "train")


def test_what_is_not_used_is_noted():
    found = of([*PLAIN, "loose.jpg", "cat/readme.txt", ".hidden/x.jpg", "cat/.x.jpg", "__MACOSX/cat/1.jpg"])
    assert found.notes == ("1 image is in no class folder and not used", "skipped 1 file without an image extension")
    assert len(found.names) == 10


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (PLAIN[:5], "only one class, 'cat', in s3://b"),
        (["val/cat/1.jpg", "test/dog/1.jpg"], "has no training images; it has only valid, test"),
        ([*APART, "val/emu/1.jpg"], "classes that are not in the training data: emu"),
        (["images/1.jpg", "masks/1.png"], "images with masks or boxes, which are read from a local folder"),
        (["train/images/1.jpg", "train/labels/1.txt"], "images with masks or boxes"),
        ([], "no images in s3://b"),
    ],
)
def test_what_cannot_be_learned_is_told(names, told):
    with pytest.raises(DataError, match=told):
        listed_set(of(names), 0)


def test_other_classes_and_splits_are_told():
    with pytest.raises(DataError, match="classes that are not in the training data: dog"):
        listed_for(of(PLAIN), ("cat", "emu"), "")
    with pytest.raises(DataError, match="has no test split; it has "):
        listed_for(of(PLAIN), ("cat", "dog"), "test")
    assert np.array_equal(of(PLAIN).take(np.array([9, 0])).labels, [1, 0])
