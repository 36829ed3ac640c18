from __future__ import annotations

import json

import numpy as np
import pytest

import frostline
from conftest import draw_images, small_model
from frostline.backbones import load_backbone
from frostline.data.images import Images, join
from frostline.plan import Phase
from tasks_data import HOW


def renamed(images: Images, prefix: str) -> Images:
    return Images(images.pictures, images.targets, [f"{prefix}-{i}" for i in range(len(images))])


@pytest.fixture
def leaky(stripes):
    """Six training images are validation images, too, and four are test images."""
    extra = [renamed(stripes.train.take(np.arange(n)), name) for n, name in ((6, "leak-v"), (4, "leak-t"))]
    valid = join([renamed(stripes.valid, "v"), extra[0]])
    test = join([renamed(draw_images(20, seed=2), "t"), extra[1]])
    return stripes.with_splits({"valid": valid, "test": test})


def fitted(images, tmp_path, plan="probe", **options):
    backbone = load_backbone(small_model(), preprocessing=HOW)
    return frostline.fit(images, backbone=backbone, plan=plan, out=tmp_path / "run", precision="fp32", **options)


def test_leaks_are_counted_listed_and_left_out_of_a_second_figure(leaky, tmp_path, capsys, no_pictures):
    """Stumble 1."""
    run = fitted(leaky, tmp_path)
    metrics = run.metrics
    assert metrics["checks"]["leak"] == 10
    right = {record["path"]: record["label"] == record["predicted"] for record in run.predictions}
    new = [ok for name, ok in right.items() if name.startswith("t-")]
    assert metrics["without_leaks"]["n"] == 20
    assert metrics["without_leaks"]["accuracy"] == pytest.approx(np.mean(new))
    found = json.loads((run.path / "checks.json").read_text())["findings"]
    assert sorted(f["paths"][0] for f in found if f["kind"] == "leak")[0] == "leak-t-0"
    said = capsys.readouterr().err
    assert "warning: 6 of 30 validation images are also training images, byte for byte" in said
    assert "test without images that have copies in another split: accuracy" in said
    assert said.index("warning: 6 of 30") < said.index("phase 1")  # before anything is decided by them


def test_without_leaks_there_is_one_figure(stripes, tmp_path, capsys, no_pictures):
    metrics = fitted(stripes, tmp_path).metrics
    assert "without_leaks" not in metrics
    assert metrics["checks"]["leak"] == 0
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("options", [{"cache": False}, {}])
def test_a_look_changes_nothing_of_what_ships(leaky, tmp_path, no_pictures, options):
    plan = [Phase("head", epochs=0), Phase("block2", epochs=2, lr=0.01, views=1)]
    run = fitted(leaky, tmp_path, plan, quiet=True, **options)
    assert run.metrics["checks"]["leak"] == 10  # without a store by their bytes alone
    again = frostline.evaluate(run, leaky, model=small_model())
    assert again["loss"] == pytest.approx(run.metrics["test"]["loss"], rel=1e-4)


def test_the_run_knows_the_content_of_its_images(stripes, tmp_path, no_pictures):
    run = fitted(stripes, tmp_path, quiet=True)
    digests = {record["path"]: record["digest"] for record in run.split if record["split"] == "train"}
    assert digests == {
        name: digest.hex() for name, digest in zip(stripes.train.names, stripes.train.digests, strict=True)
    }
