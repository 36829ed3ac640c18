"""What `features` stores is what a fit finds, whole or in parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import frostline
from conftest import small_backbone, write_photos
from frostline.cli import main
from frostline.errors import DataError, MachineError, UsageError
from frostline.plan import Phase

TINY = ["--backbone", "timm:test_resnet", "--weights", "none", "--image-size", "32", "--precision", "fp32"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", 15)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(("stage", "views"), [("head", 1), ("block2", 2)])
def test_a_fit_finds_every_row(stage, views, photos, tmp_path):
    options = {"backbone": small_backbone(), "views": views, "precision": "fp32", "quiet": True}
    first = frostline.features(photos, frostline=stage, **options)
    train = 30 - len(frostline.read_data(photos).valid)
    assert (first.images, first.rows) == (30, train * views + 30 - train)
    assert first.computed == first.rows
    plan = [Phase(stage, epochs=0 if stage == "head" else 1, views=views)]
    run = frostline.fit(photos, plan=plan, out=tmp_path / "run", **{**options, "backbone": small_backbone()})
    assert run.metrics["phases"][0]["computed"] == 0
    again = frostline.features(photos, frostline=stage, **options)
    assert (again.computed, again.rows, again.bytes) == (0, first.rows, first.bytes)


def test_parts_are_the_whole_and_share_nothing(photos):
    options = {"backbone": small_backbone(), "precision": "fp32", "quiet": True}
    parts = [frostline.features(photos, part=f"{number}/4", **options) for number in range(1, 5)]
    assert [part.computed for part in parts] == [part.rows for part in parts]
    assert sum(part.images for part in parts) == 30
    assert max(part.images for part in parts) - min(part.images for part in parts) <= 2
    whole = frostline.features(photos, **options)
    assert (whole.rows, whole.computed) == (30, 0)


def test_more_parts_than_images_are_empty_in_part(photos):
    options = {"backbone": small_backbone(), "precision": "fp32", "quiet": True}
    assert frostline.features(photos, part="1/99", **options).rows == 0


@pytest.mark.parametrize(("store", "on"), [("s3:/bucket/x", "local"), ("memory://x", "ray")])
def test_a_store_that_cannot_be_meant_is_told(store, on, photos):
    with pytest.raises(UsageError, match=r"a URL has two slashes|is in the memory of this process"):
        frostline.features(photos, backbone=small_backbone(), store=store, on=on, quiet=True)
    assert not Path(store).exists()


@pytest.mark.parametrize("part", ["１/２", "1/99999999999", "0/4", "5/4", "3", "a/b", "1/0", "-1/4", ""])
def test_what_is_no_part_is_told(part, photos):
    with pytest.raises(UsageError, match="is no part; write it as in 3/64"):
        frostline.features(photos, part=part)


def test_bad_input_is_told(photos):
    options = {"backbone": small_backbone(), "precision": "fp32", "quiet": True}
    with pytest.raises(UsageError, match="unknown stage 'neck'"):
        frostline.features(photos, frostline="neck", **options)
    with pytest.raises(UsageError, match="leave out cache=False"):
        frostline.features(photos, cache=False, **options)
    for file in photos.rglob("*.png"):
        file.write_bytes(b"no picture")
    with pytest.raises(DataError, match="30 of 30 images cannot be read"):
        frostline.features(photos, **options)


@pytest.mark.parametrize("part", [3, (1, 2)])
def test_a_part_is_told_to_be_text(part, photos):
    with pytest.raises(UsageError, match="is no part; write it as in 3/64"):
        frostline.features(photos, part=part)


def test_a_store_that_cannot_be_written_is_told_before_the_pass(photos, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MachineError, match="cannot write to the store .*file .*; name another folder with --store"):
        frostline.features(photos, backbone=small_backbone(), store=tmp_path / "file")
    assert "computing" not in capsys.readouterr().err


def test_ctrl_c_says_that_the_same_command_goes_on(photos, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("frostline.verbs.features.computed_once", interrupted)
    with pytest.raises(KeyboardInterrupt):
        frostline.features(photos, backbone=small_backbone(), precision="fp32")
    assert capsys.readouterr().err.endswith("interrupted; what is stored stays, and the same command goes on with it\n")


def test_a_store_in_memory_is_refused_by_the_command_which_would_lose_it(photos, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["features", str(photos), *TINY, "--store", "memory://x"])
    assert ended.value.code == 2
    assert "would be gone at its end" in capsys.readouterr().err


def test_what_no_key_identifies_is_told_before_any_pass(photos):
    backbone = small_backbone()
    next(backbone.model.children()).source = iter([1])
    with pytest.raises(UsageError, match=r"cannot be stored, so only a fit computes them: .*list_iterator"):
        frostline.features(photos, backbone=backbone, quiet=True)
    with pytest.raises(UsageError, match="augmentation is a function of your own"):
        frostline.features(photos, backbone=small_backbone(), augment=lambda image: image, views=2, quiet=True)


def test_the_command_says_the_cost_first_and_prints_json(photos, capsys):
    (photos / "flat" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit) as end:
        main(["features", str(photos), *TINY, "--json"])
    assert end.value.code == 0
    printed = capsys.readouterr()
    assert "31 rows below head are missing: " in printed.err
    assert " on this machine" in printed.err
    answer = json.loads(printed.out)
    assert (answer["rows"], answer["computed"], answer["frostline"], answer["shape"]) == (30, 30, "head", [96])
    assert [failed["path"].rpartition("/")[2] for failed in answer["unreadable"]] == ["broken.png"]
    with pytest.raises(SystemExit):
        main(["features", str(photos), *TINY])
    assert capsys.readouterr().out.startswith("30 rows of 30 images below head: ")


@pytest.mark.parametrize("budget", ["0", "1KB"])
def test_a_store_without_room_is_told(budget, photos, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["features", str(photos), *TINY, "--cache-budget", budget])
    assert end.value.code == 7
    printed = capsys.readouterr()
    assert "and the store may have" in printed.err
    assert "computing" not in printed.err  # nothing before it is known
    assert printed.out == ""
