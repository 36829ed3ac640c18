from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import small_model, write_photos
from frostline.backbones import load_backbone
from frostline.cli import main
from frostline.errors import DataError, UsageError
from frostline.verbs.check import check
from tasks_data import HOW


def small():
    return load_backbone(small_model(), preprocessing=HOW)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Twelve images; one is there twice, one with two labels, one is broken."""
    root = write_photos(tmp_path / "photos", 12)
    (root / "flat" / "again.png").write_bytes((root / "flat" / "001.png").read_bytes())
    (root / "flat" / "other.png").write_bytes((root / "tall" / "002.png").read_bytes())
    (root / "tall" / "broken.png").write_bytes(b"no picture")
    return root


def test_a_folder_is_looked_at_whole(copied: Path):
    """Stumble 2."""
    checks = check(copied, backbone=small(), quiet=True)
    assert checks.n == 27
    assert checks.counts["unreadable"] == 1
    assert checks.counts["label-conflict"] == 1
    assert checks.counts["duplicate"] + checks.counts["leak"] == 2  # where the split happens to put them
    assert "broken.png" in checks.of("unreadable")[0].paths[0]


def test_a_fixed_manifest_leaves_good_images(copied: Path):
    check(copied, backbone=small(), fix=copied / "good.csv", quiet=True)
    again = check(copied / "good.csv", backbone=small(), quiet=True)
    assert again.n == 27 - 1 - 2 - 1
    assert not any(n for kind, n in again.counts.items() if kind not in ("label-error", "outlier"))


def test_a_fix_that_cannot_be_written_is_told_before_anything_is_read(copied: Path):
    (copied / "there.csv").write_text("mine")
    for name in ("there.csv", "good.txt"):
        with pytest.raises(UsageError, match="end in .csv|already exists"):
            check(copied / "no such folder", fix=copied / name)
    assert (copied / "there.csv").read_text() == "mine"


def test_nothing_that_can_be_read_is_no_data(tmp_path: Path):
    root = write_photos(tmp_path / "photos", 3)
    for file in root.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match="6 of 6 images cannot be read"):
        check(root, backbone=small(), quiet=True)


def test_the_command_prints_json_csv_and_a_table(copied: Path, capsys):
    common = ["check", str(copied), "--backbone", "efficientnet-lite0", "--weights", "none", "--image-size", "32"]
    with pytest.raises(SystemExit) as end:
        main([*common, "--json"])
    assert end.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["counts"]["label-conflict"]) == (27, 1)
    assert set(found["findings"][0]) == {"kind", "paths", "splits", "labels", "score", "detail"}
    with pytest.raises(SystemExit):
        main([*common, "--format", "csv"])
    assert capsys.readouterr().out.startswith("kind,path,split,label,score,detail\n")
    with pytest.raises(SystemExit) as end:
        main([*common, "--strict"])
    printed = capsys.readouterr()
    assert end.value.code == 3
    assert "--strict allows none" in printed.err
    assert "1 image with two labels" in printed.out
    assert "27 images checked" in printed.out


def test_a_class_that_a_manifest_cannot_name_is_refused(tmp_path):
    photos = write_photos(tmp_path / "photos", 3, ("flat", "tall|thin"))
    with pytest.raises(UsageError, match=r"the class name tall\|thin contains \|"):
        check(photos, fix=tmp_path / "good.csv", quiet=True)
