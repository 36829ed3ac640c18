from __future__ import annotations

import json

import pytest

from conftest import write_photos
from frostline.errors import DataError
from frostline.runs.run import load_run
from frostline.verbs.compare import compare

pytestmark = pytest.mark.usefixtures("no_pictures")

SMALL = ["timm:test_resnet", "timm:test_efficientnet"]
TINY = {"weights": "none", "image_size": 64, "epochs": 1, "quiet": True, "batch_size": 8}
MEASURED = {"accuracy", "interval", "loss", "n", "seconds", "parameters", "bytes", "images_per_second", "history"}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROSTLINE_CACHE", str(folder / "cache"))
        for name in ("draw_curves", "draw_views", "draw_predictions"):
            patch.setattr(f"frostline.report.gallery.{name}", lambda *_: None)
        photos = write_photos(folder / "split" / "train", 10).parent
        write_photos(photos / "test", 7)
        return folder / "out", compare(photos, backbone=SMALL, plan=["probe", "gradual"], out=folder / "out", **TINY)


def test_every_backbone_meets_every_plan(compared):
    _, rows = compared
    assert [row["name"] for row in rows] == [f"{name} {plan}" for name in SMALL for plan in ("probe", "gradual")]
    assert all(row.keys() >= MEASURED for row in rows)


def test_each_run_is_kept_and_the_row_is_its_own(compared):
    _, rows = compared
    assert len({row["run"] for row in rows}) == 4
    for row in rows:
        run = load_run(row["run"])
        assert row["accuracy"] == run.metrics["valid"]["accuracy"]
        assert row["history"] == run.history
        assert row["bytes"] == (run.path / "model" / "model.safetensors").stat().st_size
        assert row["bytes"] == pytest.approx(4 * row["parameters"], rel=0.2)
        assert row["images_per_second"] > 0


def test_validation_images_are_compared_and_not_test_images(compared):
    _, rows = compared
    assert {row["n"] for row in rows} == {4}
    assert {load_run(row["run"]).metrics["test"]["n"] for row in rows} == {14}


def test_table_and_picture_lie_beside_the_runs(compared):
    folder, rows = compared
    assert json.loads((folder / "comparison.json").read_text()) == json.loads(json.dumps(rows))
    assert (folder / "comparison.png").stat().st_size > 1000
    assert (folder / "comparison.svg").is_file()


def test_a_failing_backbone_does_not_end_the_comparison(photos, tmp_path, capsys):
    names = ["timm:no_such_one", f"{SMALL[0]}@none.pth", f"{SMALL[0]}@none"]
    options = {**TINY, "quiet": False, "weights": "pretrained"}
    rows = compare(photos, backbone=names, plan=["probe"], out=tmp_path / "out", **options)
    assert [("error" in row) for row in rows] == [True, True, False]
    assert "no_such_one" in rows[0]["error"]
    assert "failed: " in capsys.readouterr().err
    assert len(json.loads((tmp_path / "out" / "comparison.json").read_text())) == 3


def test_a_fault_of_any_kind_does_not_end_it_either(photos, tmp_path, monkeypatch):
    import sys

    module = sys.modules["frostline.verbs.compare"]
    fit = module.fit

    def failing(*given, **options):
        if options["plan"] == "gradual":
            raise RuntimeError("out of memory")
        return fit(*given, **options)

    monkeypatch.setattr(module, "fit", failing)
    rows = compare(photos, backbone=SMALL[:1], plan=["gradual", "probe"], out=tmp_path / "out", **TINY)
    assert rows[0] == {"name": "gradual", "error": "out of memory"}
    assert "accuracy" in rows[1]


def test_data_that_is_not_there_leaves_nothing_behind(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        compare(tmp_path / "none", backbone=SMALL, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
