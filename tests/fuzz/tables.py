"""Bytes as a list of images (CSV, TSV, JSON lines, COCO, YOLO): a data set, or an error that says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from frostline.data import read_data, read_for_evaluation, read_listing
from frostline.data.images import ImageSet
from frostline.data.readers.columns import Wanted
from frostline.errors import DataError, UsageError

MOST = 3_000
NAMES = ("a.csv", "a.tsv", "a.jsonl", "a.json", "a.yaml")  # the first byte of an input chooses one
IMAGES = ("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png", "dog/2.png")
MASK = "mask.png"
WORDS = tuple(map(str.encode, (*IMAGES, MASK, "path", "label", "labels", "mask", "split", "is_valid", "train", "val")))
WORDS += (
    b"test",
    b"cat",
    b"dog",
    b"cat|dog",
    b"1",
    b"0",
    b"True",
    b"fold",
    b"../",
    b"/",
    b'""',
    b"\r\n",
    b"\xef\xbb\xbf",
)
WORDS += (b'"images"', b'"annotations"', b'"categories"', b'"id"', b'"file_name"', b'"image_id"', b'"category_id"')
WORDS += (b'"name"', b"null", b"NaN", b"1e999", b"\\ud800", b"[[", b"{}", b"names:", b"nc:", b"path:", b"train:")


def seeds() -> list[bytes]:
    """Each way of listing some images: with labels, several labels, marks, masks, splits."""
    kinds = [name.split("/")[0] for name in IMAGES]
    rows = list(zip(IMAGES, kinds, ("train", "train", "train", "val", "test"), strict=True))
    labelled = "path,label,split\n" + "".join(f"{path},{kind},{split}\n" for path, kind, split in rows)
    several = "image;labels\n" + "".join(f'"{path}";{kind}|pet\n' for path, kind, _ in rows)
    marked = (f"{path},{kind == 'cat':d},{kind == 'dog':d},{split == 'val'}\n" for path, kind, split in rows)
    marks = "file_name,cat,dog,is_valid\n" + "".join(marked)
    masks = "path,mask\n" + "".join(f"{path},{MASK}\n" for path in IMAGES)
    lines = "".join(json.dumps({"path": p, "label": [k, 3], "split": s}) + "\n" for p, k, s in rows)
    coco = {
        "images": [{"id": i, "file_name": path} for i, path in enumerate(IMAGES)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{"image_id": i, "category_id": 1 + (k == "dog")} for i, k in enumerate(kinds)],
    }
    yolo = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"
    texts = [(0, labelled), (0, several), (0, marks), (0, masks), (1, labelled.replace(",", "\t"))]
    texts += [(2, lines), (3, json.dumps(coco)), (4, yolo)]
    return [bytes([number]) + text.encode() for number, text in texts]


def attempt(content: bytes, folder: Path) -> None:
    file = _placed(content, folder)
    classes = ("cat", "dog")
    _refused_or(lambda: read_data(file), _check)
    _refused_or(lambda: read_data(file, group="split"), _check)
    _refused_or(lambda: read_data(file, wanted=Wanted("cat", "dog", images=folder)), _check)
    _refused_or(lambda: read_listing(file, classes, "classification"), lambda _: None)
    for task in ("classification", "multilabel", "segmentation"):
        _refused_or(lambda task=task: read_for_evaluation(file, classes, "all", task), lambda found: found[0].names[:])


def _placed(content: bytes, folder: Path) -> Path:
    """The file, in a folder that has the images."""
    if not (folder / MASK).exists():
        for number, name in enumerate(IMAGES):
            for place in (folder / name, folder / "images" / ("train" if number < 3 else "val") / name):
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(place)
                place.with_suffix(".txt").write_text(f"{number % 2} 0.5 0.5 0.1 0.1\n")
        Image.fromarray(np.array([[0, 1], [2, 2]], np.uint8)).save(folder / MASK)
    file = folder / NAMES[content[0] % len(NAMES) if content else 0]
    file.write_bytes(content[1:])
    return file


def _refused_or(read: Callable[[], object], check: Callable[..., object]) -> None:
    try:
        found = read()
    except (DataError, UsageError) as error:
        assert str(error).strip()
    else:
        check(found)


def _check(images: ImageSet) -> None:
    """It can be learned from: every image has a class that exists, and lies in one split."""
    assert len(set(images.classes)) == len(images.classes) > 0
    names = [name for split in images.splits.values() for name in split.names]
    if images.valid is not images.train:
        assert len(set(names)) == len(names)
    for split in images.splits.values():
        assert len(split.pictures) == len(split.targets) == len(split.names)
        if isinstance(split.targets, np.ndarray):
            assert split.targets.ndim == 2 or (split.targets >= 0).all()
            assert split.targets.ndim == 2 or (split.targets < len(images.classes)).all()
