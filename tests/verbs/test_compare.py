from __future__ import annotations

import html
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from conftest import Counted, draw_images, write_photos
from frostline.data import Images, ImageSet, read_data
from frostline.errors import DataError, UsageError
from frostline.plan import Phase
from frostline.runs.run import load_run
from frostline.tasks.paired import Paired, paired_difference
from frostline.verbs.compare import compare
from tasks_data import halves, several_labels

pytestmark = pytest.mark.usefixtures("no_pictures")

SMALL = ["timm:test_resnet", "timm:test_efficientnet"]
TINY = {"weights": "none", "image_size": 32, "epochs": 1, "quiet": True, "batch_size": 8}
MEASURED = {"accuracy", "interval", "loss", "n", "seconds", "parameters", "bytes", "images_per_second", "history"}
MEASURED |= {"licence", "sha256", "dropped", "recommended", "reason", "to_best"}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROSTLINE_CACHE", str(folder / "cache"))
        for name in ("draw_curves", "draw_confusion", "draw_shots"):
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


def test_validation_images_are_compared_and_the_test_split_stays_closed(compared):
    _, rows = compared
    assert {row["n"] for row in rows} == {4}
    for row in rows:
        run = load_run(row["run"])
        assert run.metrics["test"] is None
        assert {record["split"] for record in run.split} == {"train", "valid"}
        assert {record["split"] for record in run.predictions} == {"valid"}


def test_no_test_image_is_read(photos, tmp_path, monkeypatch, capsys):
    images = read_data(photos)
    nothing = [tmp_path / "gone.png"] * 5  # a fit that opened them would refuse so many that cannot be read
    closed = replace(images, test=Images(nothing, np.zeros(5, np.int64), [f"gone {i}" for i in range(5)]))
    options = {**TINY, "quiet": False}
    (row,) = compare(closed, backbone=SMALL[0], plan="probe", out=tmp_path / "out", **options)
    assert row["n"] == 40  # so few that each is predicted by a head that has not seen it
    assert "the test split is still closed; to measure it: frostline evaluate RUN" in capsys.readouterr().err


def test_each_is_paired_with_the_best_image_by_image(compared):
    _, rows = compared
    best = max(rows, key=lambda row: row["accuracy"])
    assert best["to_best"] is None
    right = {}
    for row in rows:
        records = load_run(row["run"]).predictions
        right[row["run"]] = np.array([record["label"] == record["predicted"] for record in records])
    for row in rows:
        if row is not best:
            expected = paired_difference(right[row["run"]], right[best["run"]])
            assert row["to_best"] == asdict(expected)
            assert row["to_best"]["difference"] == pytest.approx(row["accuracy"] - best["accuracy"])


def test_one_is_recommended_and_its_reason_names_the_licence(compared):
    _, rows = compared
    (taken,) = [row for row in rows if row["recommended"]]
    assert taken["reason"].startswith(f"{taken['name']} (licence none)")
    assert {row["reason"] for row in rows if row is not taken} == {""}
    assert [row["dropped"] for row in rows] == [None] * 4


def test_without_names_those_on_this_machine_get_a_probe_each(photos, tmp_path, several_here):
    del several_here[2:]
    rows = compare(photos, out=tmp_path / "out", image_size=32, quiet=True)
    assert [row["name"] for row in rows] == several_here
    for row in rows:
        run = load_run(row["run"])
        assert [phase["epochs"] for phase in run.metrics["phases"]] == [0]
        assert run.metrics["phases"][0]["computed"] == 0  # its trial did
        assert (row["licence"], row["sha256"]) == ("mit", run.metrics["backbone"]["sha256"])
    assert sum(row["recommended"] for row in rows) == 1


@pytest.mark.long
def test_the_weak_stay_in_the_table_and_get_no_run(photos, tmp_path, several_here, monkeypatch):
    from frostline.fitting import choosing

    del several_here[2:]
    weak, evidence = several_here[1], Paired(-0.4, -0.5, -0.3, 1e-5)
    monkeypatch.setattr(choosing, "clearly_behind", lambda scores, _: {weak: evidence} if weak in scores else {})
    rows = compare(photos, out=tmp_path / "out", plan=["probe", "gradual"], image_size=32, epochs=1, quiet=True)
    left = [f"{name} {plan}" for name in several_here if name != weak for plan in ("probe", "gradual")]
    assert [row["name"] for row in rows] == [*left, weak]
    assert rows[-1].keys() >= MEASURED
    assert rows[-1]["run"] is None
    assert rows[-1]["dropped"] == {"round": 1, "images": 32}
    assert rows[-1]["to_best"] == asdict(evidence)
    assert not rows[-1]["recommended"]
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == json.loads(json.dumps(rows))


@pytest.mark.long
def test_one_that_cannot_be_tried_is_told_and_gets_no_run(photos, tmp_path, several_here):
    several_here[0] = "timm:no_such_one"
    rows = compare(photos, out=tmp_path / "out", image_size=32, quiet=True)
    assert [row["name"] for row in rows] == [*several_here[1:], several_here[0]]
    assert ["error" in row for row in rows] == [False, False, True]


def test_names_may_stand_beside_auto(photos, tmp_path, several_here):
    del several_here[1:]
    rows = compare(photos, backbone=["auto", f"{SMALL[1]}@none"], out=tmp_path / "out", image_size=32, quiet=True)
    assert [row["sha256"] is None for row in rows] == [False, True]


@pytest.mark.parametrize("backbone", ["auto", pytest.param([f"{name}@none" for name in SMALL], marks=pytest.mark.long)])
@pytest.mark.long
def test_a_data_set_that_counts_sees_no_test_image_asked_for(backbone, tmp_path, several_here):
    counted = Counted(36)
    test = Images(counted, np.arange(36) % 2, [f"test-{i}" for i in range(36)])
    images = ImageSet("counted", ("a", "b"), draw_images(36, 2), draw_images(20, 2, seed=1), test)
    rows = compare(images, backbone=backbone, plan="probe", out=tmp_path / "out", image_size=32, quiet=True)
    assert counted.asked == 0
    assert {row["n"] for row in rows} == {20}
    assert sum(row["to_best"] is not None for row in rows) == len(rows) - 1


@pytest.mark.parametrize("weights", ["none", "weights.pth"])
def test_auto_chooses_among_pretrained_weights_only(weights, photos, tmp_path):
    with pytest.raises(UsageError, match="leave out --weights, or name the backbone"):
        compare(photos, weights=weights, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["multilabel", pytest.param("segmentation", marks=pytest.mark.long)])
def test_every_task_is_paired(task, tmp_path):
    images = several_labels() if task == "multilabel" else halves()
    options = {**TINY, "image_size": 32, "store": tmp_path / "cache", "seed": 1}
    rows = compare(images, backbone=SMALL, plan=[[Phase("head", epochs=1)]], out=tmp_path / "out", **options)
    (paired,) = [row["to_best"] for row in rows if row["to_best"]]
    assert paired["low"] <= paired["difference"] <= paired["high"]
    assert paired["difference"] <= 1e-9 or task == "segmentation"  # of which pixels, not images, are the accuracy


@pytest.mark.parametrize("plan", ["probe", Path("probe"), [Phase("head", epochs=0)]])
def test_one_backbone_and_one_plan_are_one_run(plan, photos, tmp_path, monkeypatch):
    if isinstance(plan, Path):
        (tmp_path / "plan.yaml").write_text("phases:\n  - frostline: head\n    epochs: 0\n")
        plan = tmp_path / "plan.yaml"
    rows = compare(photos, backbone=SMALL[0], plan=plan, out=tmp_path / "out", **TINY)
    assert [row["name"] for row in rows] == [SMALL[0]]
    assert "error" not in rows[0]


def test_an_option_that_fit_does_not_take_is_told_before_anything_is_read(tmp_path):
    with pytest.raises(TypeError, match="epoch"):
        compare(tmp_path / "none", epoch=3)
    with pytest.raises(UsageError, match="precision"):
        compare(tmp_path / "none", precision="fp8")


def test_table_and_picture_lie_beside_the_runs(compared):
    folder, rows = compared
    assert json.loads((folder / "comparison.json").read_text()) == json.loads(json.dumps(rows))
    assert (folder / "comparison.png").stat().st_size > 1000
    assert (folder / "comparison.svg").is_file()


def test_a_page_lies_beside_them_and_says_what_repeats_it(compared):
    folder, rows = compared
    page = html.unescape((folder / "comparison.html").read_text())
    best = next(row for row in rows if row["to_best"] is None)
    assert f"{100 * best['accuracy']:.1f} % accurate" in page
    photos = folder.parent / "split"
    assert f"frostline compare {photos} \\\n  --backbone {SMALL[0]}@none \\\n  --backbone {SMALL[1]}@none" in page
    assert "--plan probe" in page
    assert "--image-size 32" in page
    assert "--weights" not in page


def test_without_reports_there_is_no_page(stripes, tmp_path):
    few = stripes.with_splits({"test": None})
    compare(few, backbone=SMALL[0], plan="probe", out=tmp_path / "none", report=False, **TINY)
    compare(few, backbone=SMALL[0], plan="probe", out=tmp_path / "out", **TINY)
    assert not (tmp_path / "none" / "comparison.html").exists()
    assert "This comparison used Python objects" in (tmp_path / "out" / "comparison.html").read_text()


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
