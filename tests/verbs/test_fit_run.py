"""The main job through the public API, on drawn pictures and a small network."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import frostline
from conftest import TINY_FIT, assert_same_state, small_backbone, small_model, state_of, write_photos
from frostline.backbones import load_backbone
from frostline.data import read_data
from frostline.data.images import Images
from frostline.errors import DataError, MachineError, UsageError
from frostline.plan import Phase

pytestmark = pytest.mark.usefixtures("no_pictures")


def held_out(folder):
    """The images of a folder with some of them held out, although they are few."""
    return replace(read_data(folder), validation="given")


PLAN = [Phase("head", epochs=0), Phase("block2", epochs=3, lr=1e-2), Phase("stem", epochs=2, lr=1e-3)]


def read_csv(run, name):
    with (run.path / name).open() as file:
        return list(csv.DictReader(file))


def test_a_run_has_everything(stripes, tmp_path, reports):
    run = frostline.fit(stripes, backbone=small_backbone(), plan=PLAN, out=tmp_path / "run", quiet=True)
    metrics = run.metrics
    assert [phase["frostline"] for phase in metrics["phases"]] == ["head", "block2", "stem"]
    for phase in metrics["phases"]:
        assert {"frostline", "epochs", "seconds", "fill_seconds", "cached_bytes", "valid"} <= phase.keys()
    assert metrics["run"] == str(tmp_path / "run")
    assert metrics["classes"] == ["flat", "tall", "plain"] == list(run.classes)
    assert metrics["valid"]["accuracy"] > 0.9
    assert metrics["test"]["n"] == 24
    written = {str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file()}
    assert written == {
        "config.yaml",
        "classes.json",
        "split.csv",
        "history.csv",
        "metrics.json",
        "environment.json",
        "log.txt",
        "predictions.csv",
        "checks.json",
        "worth.csv",
        "reference.safetensors",
        "report.json",
        "report.html",
        "checkpoints/phase-1.safetensors",
        "checkpoints/phase-2.safetensors",
        "checkpoints/phase-3.safetensors",
        "model/model.safetensors",
        "model/model.json",
        "model/golden.safetensors",
        "model/MODEL_CARD.md",
    }
    assert [row["frostline"] for row in run.history] == ["head", *["block2"] * 4, *["stem"] * 3]
    rows = read_csv(run, "predictions.csv")
    assert len(rows) == 48
    right = [row["label"] == row["predicted"] for row in rows if row["split"] == "valid"]
    assert np.mean(right) == pytest.approx(metrics["valid"]["accuracy"])


def test_no_later_phase_is_worse_on_validation(stripes, tmp_path):
    phases = frostline.fit(stripes, backbone=small_backbone(), plan=PLAN, out=tmp_path / "run", quiet=True).metrics[
        "phases"
    ]
    losses = [phase["valid"]["loss"] for phase in phases]
    assert losses[1] <= losses[0] * (1 + 1e-2)
    assert losses[2] <= losses[1] * (1 + 1e-2)


def test_a_second_run_with_other_settings_runs_the_frozen_part_never(stripes, tmp_path, monkeypatch):
    import sys

    plan = [Phase("head", epochs=0), Phase("block2", epochs=2)]
    frostline.fit(stripes, backbone=small_backbone(), plan=plan, out=tmp_path / "a", quiet=True)
    monkeypatch.setattr(sys.modules["frostline.store.filling"], "fastest", lambda *_: pytest.fail("it ran again"))
    plan = [Phase("head", epochs=5, lr=0.1, views=1), Phase("block2", epochs=1, lr=1e-3)]
    metrics = frostline.fit(stripes, backbone=small_backbone(), plan=plan, out=tmp_path / "b", quiet=True).metrics
    assert [phase["computed"] for phase in metrics["phases"]] == [0, 0]


def test_D24_frozen_parts_are_bit_identical_after_every_phase(stripes, tmp_path):
    run = frostline.fit(stripes, backbone=small_backbone(), plan=PLAN[:2], out=tmp_path / "run", quiet=True)
    saved = frostline.load(run, model=small_model()).model.state_dict()
    for name, value in small_model().state_dict().items():
        changed = not torch.equal(value, saved[name]) if value.shape == saved[name].shape else True
        assert changed == (name.startswith(("head", "block2")) and "running" not in name and "num_" not in name), name


def test_a_backbone_is_not_changed_by_a_fit(stripes, tmp_path):
    backbone = small_backbone()
    backbone.model.eval()
    frostline.fit(stripes, backbone=backbone, plan=PLAN[:2], out=tmp_path / "run", quiet=True)
    assert_same_state(state_of(small_model()), backbone.model)
    assert backbone.model.train().norm.training
    assert all(p.requires_grad for p in backbone.model.parameters())


def test_a_config_of_an_object_says_what_it_was(stripes, tmp_path):
    backbone = load_backbone("torchvision:squeezenet1_1", "none", image_size=48)
    run = frostline.fit(stripes, backbone=backbone, plan="probe", out=tmp_path / "run", quiet=True)
    assert {"backbone": "torchvision:squeezenet1_1", "weights": "none", "image_size": 48}.items() <= run.config.items()


def test_the_same_frostline_twice_is_computed_once(stripes, tmp_path):
    plan = [Phase("head", epochs=0), Phase("head", epochs=1, views=3), Phase("block2", epochs=1, views=2)]
    phases = frostline.fit(stripes, backbone=small_backbone(), plan=plan, out=tmp_path / "run", quiet=True).metrics
    assert [phase["computed"] for phase in phases["phases"]] == [48 * 3 + 24, 0, 48 * 2 + 24]
    assert [phase["reused"] for phase in phases["phases"]] == [0, 48 * 3 + 24, 0]


def test_bad_test_images_do_not_cost_the_classifier(tmp_path):
    photos = write_photos(tmp_path / "photos" / "train", 20).parent
    write_photos(photos / "test", 10)
    for file in sorted((photos / "test").rglob("*.png"))[1:12]:
        file.write_text("bad")
    options = {"backbone": "torchvision:resnet18", "weights": "none", "image_size": 32, "plan": "probe", "quiet": True}
    with pytest.raises(DataError, match=r"11 of 60 images cannot be read; at most 10 may be"):
        frostline.fit(photos, out=tmp_path / "run", **options)
    (answer,) = frostline.predict(tmp_path / "run", [photos / "test" / "flat" / "000.png"])
    assert answer.label in ("flat", "tall")


def test_no_epochs_are_refused(stripes, tmp_path):
    with pytest.raises(UsageError, match="epochs is 0; it must be at least 1; use --plan probe"):
        frostline.fit(stripes, backbone=small_backbone(), plan=PLAN, epochs=0, out=tmp_path / "run", quiet=True)


def test_same_seed_same_run(stripes, tmp_path):
    one, two, other = (
        frostline.fit(
            stripes, backbone=small_backbone(), plan=PLAN, seed=seed, precision="fp32", out=tmp_path / name, quiet=True
        )
        for name, seed in (("one", 1), ("two", 1), ("other", 2))
    )
    content = [(run.path / "model" / "model.safetensors").read_bytes() for run in (one, two, other)]
    assert content[0] == content[1] != content[2]


def test_without_a_store_the_result_is_the_same(stripes, tmp_path, own_cache):
    options = {"plan": PLAN, "precision": "fp32", "quiet": True}
    stored = frostline.fit(stripes, backbone=small_backbone(), out=tmp_path / "a", **options).metrics
    assert list(own_cache.rglob("*.shard"))
    plain = frostline.fit(stripes, backbone=small_backbone(), out=tmp_path / "b", cache=False, **options).metrics
    assert plain["phases"][0]["cached_bytes"] == 0
    assert plain["valid"]["loss"] == pytest.approx(stored["valid"]["loss"], rel=1e-3)
    assert plain["test"]["accuracy"] == stored["test"]["accuracy"]


def test_the_test_split_is_opened_after_all_choices(stripes, tmp_path, monkeypatch):
    from frostline.fitting import phase
    from frostline.store import placement as storing

    happened = []

    def images_in(value):
        if isinstance(value, Images):
            return [value]
        return [each.images for each in (value if isinstance(value, list) else [value]) if hasattr(each, "images")]

    def watched(original):
        def opening(*args, **options):
            images = next(images for value in args for images in images_in(value))
            happened.append("test" if images.names is stripes.test.names else "other")
            return original(*args, **options)

        return opening

    monkeypatch.setattr(storing, "fill", watched(storing.fill))
    monkeypatch.setattr(storing, "extract_together", watched(storing.extract_together))
    original = phase.run_phase
    monkeypatch.setattr(phase, "run_phase", lambda *a: (original(*a), happened.append("chosen"))[0])
    frostline.fit(stripes, backbone=small_backbone(), plan=PLAN, out=tmp_path / "run", quiet=True)
    last = len(happened) - happened[::-1].index("chosen")
    assert happened.count("chosen") == 3
    assert set(happened[:last]) == {"chosen", "other"}
    assert "test" in happened[last:]  # after it comes a look at all of it, that decides nothing


def test_a_repeated_config_gives_the_same_run(tmp_path, photos):
    options = {"backbone": "torchvision:resnet18", "weights": "none", "image_size": 32, "plan": "probe", "quiet": True}
    first = frostline.fit(photos, out=tmp_path / "a", **options)
    config = yaml.safe_load((first.path / "config.yaml").read_text())
    assert config["backbone"] == "torchvision:resnet18"
    assert config["data"] == str(photos)
    assert config["plan"]["phases"][0]["frostline"] == "head"


def test_the_split_is_written_and_valid_images_come_from_training(tmp_path, photos):
    options = {"backbone": "torchvision:resnet18", "weights": "none", "image_size": 32, "plan": "probe", "quiet": True}
    run = frostline.fit(held_out(photos), out=tmp_path / "a", **options)
    rows = read_csv(run, "split.csv")
    assert sorted(row["path"] for row in rows) == sorted(str(p.relative_to(photos)) for p in photos.rglob("*.png"))
    assert [row["split"] for row in rows].count("valid") == 8
    assert run.metrics["test"] is None


def test_one_bad_image_in_many_is_named_and_skipped(tmp_path, capsys):
    photos = write_photos(tmp_path / "photos", 60)
    (photos / "flat" / "007.png").write_bytes((photos / "flat" / "007.png").read_bytes()[:90])
    options = {"backbone": "torchvision:resnet18", "weights": "none", "image_size": 32, "plan": "probe"}
    run = frostline.fit(photos, out=tmp_path / "run", **options)
    predicted = capsys.readouterr().err
    assert "skipped 1 unreadable in" in predicted
    assert "flat/007.png" in predicted
    assert [item["path"] for item in run.metrics["unreadable"]] == ["flat/007.png"]


@pytest.mark.parametrize("cache", [True, False])
def test_too_many_bad_images_are_a_data_error(tmp_path, photos, cache):
    for i in range(11):
        (photos / "flat" / f"{i:03}.png").write_text("not a picture")
    options = {"backbone": "torchvision:resnet18", "weights": "none", "image_size": 32, "plan": "probe", "quiet": True}
    with pytest.raises(DataError, match="11 of .* images cannot be read; at most 10 may be"):
        frostline.fit(photos, out=tmp_path / "run", cache=cache, **options)


def test_a_rising_frostline_is_refused(stripes, tmp_path):
    with pytest.raises(UsageError, match="the frostline rises to 'head'"):
        frostline.fit(stripes, backbone=small_backbone(), plan=[Phase("block2"), Phase("head")], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_exists_is_never_overwritten(stripes, tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UsageError, match="already exists, and a run is never overwritten"):
        frostline.fit(stripes, backbone=small_backbone(), plan="probe", out=tmp_path, quiet=True)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_device_that_is_not_there(stripes, tmp_path):
    with pytest.raises(MachineError, match="this machine has no device 'cuda:7'; it has cpu"):
        frostline.fit(stripes, backbone=small_backbone(), device="cuda:7", out=tmp_path / "run")


def test_log_and_terminal_tell_the_truth(stripes, tmp_path, capsys):
    run = frostline.fit(stripes, backbone=small_backbone(), plan=PLAN, views=2, out=tmp_path / "run")
    captured = capsys.readouterr()
    assert captured.out == ""
    log = (run.path / "log.txt").read_text()
    trained = sum(p.numel() for n, p in small_model().named_parameters() if n.startswith("block2")) + 25 * 3
    assert f"phase 2/3: training block2 … head ({trained / 1000:.1f} k of" in log
    assert "the rest is frozen and cached: 48 images × 2 views" in log
    assert "phase 3/3: training stem … head" in log
    assert "nothing is frozen; pixels cached" in log
    assert log in captured.err
    assert "\x1b" not in captured.err


def test_evaluate_predict_and_fit_give_one_answer(tmp_path, photos):
    """Law 7, on every kind of file."""
    kinds = {"grey": "L", "palette": "P", "alpha": "RGBA", "cmyk": "CMYK"}
    for name, mode in kinds.items():
        Image.open(photos / "flat" / "000.png").convert(mode).save(
            photos / "flat" / f"{name}.{'tif' if mode == 'CMYK' else 'png'}"
        )
    options = {
        "backbone": "torchvision:resnet18",
        "weights": "none",
        "image_size": 32,
        "precision": "fp32",
        "quiet": True,
    }
    run = frostline.fit(held_out(photos), plan="probe", out=tmp_path / "run", **options)
    rows = {row["path"]: row for row in read_csv(run, "predictions.csv")}
    alone = {name: frostline.predict(run, [photos / name])[0] for name in rows}
    together = frostline.predict(run, [photos / name for name in rows])
    for (name, row), one in zip(rows.items(), together, strict=True):
        assert one.label == alone[name].label == row["predicted"]
        assert one.probability == pytest.approx(alone[name].probability, abs=1e-5)
        assert one.probability == pytest.approx(float(row["probability"]), abs=1e-4)
    measured = frostline.evaluate(run, photos)
    predicted = frostline.predict(run, sorted(photos.rglob("*.png")) + sorted(photos.rglob("*.tif")))
    right = [p.label == p.path.rsplit("/", 2)[1] for p in predicted]
    assert measured["accuracy"] == pytest.approx(np.mean(right))
    assert measured["n"] == len(right) == 44


def test_weights_load_into_the_bare_architecture(tmp_path, photos):
    import torchvision
    from safetensors.torch import load_file

    options = {"backbone": "torchvision:resnet18", "weights": "none", "image_size": 32, "quiet": True}
    run = frostline.fit(photos, plan="probe", out=tmp_path / "run", **options)
    bare = torchvision.models.resnet18(num_classes=2).eval()
    bare.load_state_dict(load_file(run.path / "model" / "model.safetensors"))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(bare(x), frostline.load(run).model(x), rtol=1e-3, atol=1e-4)


def test_metrics_are_plain_json(stripes, tmp_path):
    run = frostline.fit(stripes, backbone=small_backbone(), plan="probe", out=tmp_path / "run", quiet=True)
    json.dumps(run.metrics, allow_nan=False)


def test_a_name_that_is_no_unicode_harms_nothing(tmp_path):
    """Its JSON had been written in a way that could not be read again."""
    photos = write_photos(tmp_path / "photos", 6)
    bad = os.fsencode(photos / "flat") + b"/bad\xfe.png"
    Path(os.fsdecode(bad)).write_bytes(b"no image")
    run = frostline.fit(photos, **TINY_FIT, image_size=32, out=tmp_path / "run")
    assert (run.path / "model" / "MODEL_CARD.md").is_file()
    assert len(frostline.predict(run, sorted(photos.glob("*/0*.png")))) == 12
    assert [name for name, _ in run.metrics["unreadable"]] or run.metrics["unreadable"]
