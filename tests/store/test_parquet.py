"""Rows for other tools: every value in the file is that of the store, and nothing is overwritten."""

from __future__ import annotations

import errno
import json
import sys

import numpy as np
import pytest
import torch

import frostline
from conftest import SIZE, draw_images, small_backbone, write_photos
from frostline.cli import main
from frostline.data.images import Images, ImageSet
from frostline.data.masks import Masks
from frostline.data.views import PLAIN
from frostline.errors import MachineError, UsageError
from frostline.machine import find_machine
from frostline.store import parquet as writing
from frostline.store.activations import computed_once
from frostline.store.rows import Rows

pyarrow = pytest.importorskip("pyarrow", reason="no pyarrow: pip install 'frostline[parquet]'")
from pyarrow import parquet  # noqa: E402

OPTIONS = {"precision": "fp32", "quiet": True}


def test_every_row_is_there_with_its_image(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "GROUP", 3000)  # several groups
    photos, file = write_photos(tmp_path / "photos", 6), tmp_path / "rows.parquet"
    found = frostline.features(photos, backbone=small_backbone(), frostline="block2", views=2, to=file, **OPTIONS)
    table = parquet.read_table(file)
    assert table.column_names == ["path", "split", "label", "view", "digest", "vector"]
    assert (found.to, len(table)) == (str(file), found.rows)
    assert parquet.ParquetFile(file).num_row_groups > 2
    about = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
    assert json.loads(about["shape"]) == list(found.shape)
    assert (about["backbone"], about["frostline"]) == (found.backbone, "block2")
    data = frostline.read_data(photos)
    of = {name: (split, part, i) for split, part in data.splits.items() for i, name in enumerate(part.names)}
    for row in table.to_pylist():
        split, part, i = of[row["path"]]
        assert (row["split"], row["label"]) == (split, data.classes[part.targets[i]])
        assert row["digest"] == part.digests[i].hex()
        assert row["view"] in ((0, 1) if split == "train" else (0,))
    network = small_backbone().network(2, 0, "classification")
    lower, _ = network.cut("block2")
    rows = computed_once(lower, data.valid, machine=find_machine("cpu", "fp32"))
    valid = [row for row in table.to_pylist() if row["split"] == "valid"]
    expected = dict(zip(data.valid.names, rows.fetch(torch.arange(len(rows))).flatten(1).numpy(), strict=True))
    for row in valid:
        np.testing.assert_allclose(row["vector"], expected[row["path"]], atol=1e-5)


def test_several_labels_are_a_list_and_masks_are_none(tmp_path):
    images = draw_images(12)
    marks = np.eye(3, dtype=bool)[np.arange(12) % 3]
    marks[0] = True
    several = Images(images.pictures, marks, images.names)
    data = ImageSet("marks", ("a", "b", "c"), several, several.take(np.arange(3)), validation="given")
    frostline.features(data, backbone=small_backbone(), to=tmp_path / "several.parquet", **OPTIONS)
    labels = parquet.read_table(tmp_path / "several.parquet")["label"].to_pylist()
    assert labels[:3] == [["a", "b", "c"], ["b"], ["c"]]
    painted = Masks([np.zeros((SIZE, SIZE), np.uint8)] * 12, np.arange(256, dtype=np.uint8))
    part = Images(images.pictures, painted, images.names)
    lower, _ = small_backbone().network(2, 0, "classification").cut("head")
    rows = computed_once(lower, images)
    file = tmp_path / "masks.parquet"
    rows = type(rows)(part, 1, rows.fetch, rows.targets, rows.filled)
    writing.write_rows(file, {"train": rows}, ("x", "y"), "tiny", Rows(lower, PLAIN, find_machine()))
    assert parquet.read_table(file)["label"].to_pylist() == [None] * 12


def test_a_name_that_is_not_utf_8_is_written_out():
    assert writing._plain("caf\udce9.png") == "caf\\xe9.png"


def test_bad_targets_are_told_before_anything_is_read(tmp_path, monkeypatch, capsys):
    there = tmp_path / "there.parquet"
    there.write_text("mine")
    for file, why in [
        (there, "already exists and is not overwritten; give another --to"),
        (tmp_path / "rows.csv", "does not end in .parquet; rows are written as Parquet: --to rows.parquet"),
        ("s3://bucket/rows.parquet", "is a URL, but rows are written to a local file: --to rows.parquet, and copy"),
        (tmp_path / "no" / "rows.parquet", "create it: mkdir -p"),
    ]:
        with pytest.raises(UsageError, match=why):
            frostline.features(tmp_path / "nothing", to=file)
    assert there.read_text() == "mine"
    with pytest.raises(SystemExit):
        main(["features", str(tmp_path / "nothing"), "--to", "s3://bucket/rows.parquet"])
    assert "s3://bucket/rows.parquet is a URL" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SystemExit) as end:
        main(["features", str(tmp_path / "nothing"), "--to", str(tmp_path / "rows.parquet")])
    assert end.value.code == 7
    assert "--to rows.parquet needs pyarrow: pip install 'frostline[parquet]'" in capsys.readouterr().err


def test_a_full_disk_leaves_no_file(tmp_path, monkeypatch):
    lower, _ = small_backbone().network(3, 0, "classification").cut("head")
    rows, of = computed_once(lower, draw_images(6)), Rows(lower, PLAIN, find_machine())

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("frostline.files.os.write", full)
    with pytest.raises(MachineError, match="cannot write .*rows.parquet: No space left on device"):
        writing.write_rows(tmp_path / "rows.parquet", {"train": rows}, ("a", "b", "c"), "tiny", of)
    assert list(tmp_path.iterdir()) == []


def test_the_command_names_the_file(tmp_path, capsys):
    photos, file = write_photos(tmp_path / "photos", 4), tmp_path / "rows.parquet"
    tiny = ["--backbone", "timm:test_resnet", "--weights", "none", "--image-size", "32"]
    with pytest.raises(SystemExit) as end:
        main(["features", str(photos), *tiny, "--to", str(file), "--part", "1/2"])
    assert end.value.code == 0
    assert f"rows: {file}" in capsys.readouterr().out
    assert 0 < len(parquet.read_table(file)) <= 4
