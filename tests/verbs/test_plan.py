from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import frostline
from frostline.cli.plan import command
from frostline.errors import UsageError
from frostline.plan import Phase, read_plan
from frostline.verbs.plan import as_yaml, make_plan

TINY = {"backbone": "timm:test_resnet", "image_size": 64}


def test_it_is_the_plan_that_fit_runs(photos, tmp_path, no_pictures):
    options = {**TINY, "epochs": 1, "optimizer": "sgd", "views": 2}
    phases = make_plan(data=photos, **options)
    run = frostline.fit(photos, weights="none", out=tmp_path / "run", quiet=True, **options)
    assert run.config["plan"]["phases"] == [{**phase, "freeze": []} for phase in frostline.plan.plan_as_yaml(phases)]


def test_the_file_is_read_back_as_the_same_plan(photos, tmp_path):
    for phases in (make_plan(data=photos, **TINY, plan="full"), make_plan("efficientnet-lite0", momentum=0.5)):
        (tmp_path / "plan.yaml").write_text(as_yaml(phases))
        again = read_plan(tmp_path / "plan.yaml")
        assert [p.frostline for p in again] == [p.frostline for p in phases]
        for one, other in zip(again, phases, strict=True):
            assert one.learning_rate == other.learning_rate
            assert (one.epochs, one.views, one.optimizer) == (other.epochs, other.views, other.optimizer)


def test_without_data_the_views_stay_open():
    assert {phase.views for phase in make_plan("efficientnet-lite0")} == {None}


def test_a_network_of_ones_own(small):
    assert [phase.frostline for phase in make_plan(small, plan=[Phase("block2")])] == ["block2"]


def test_a_plan_that_does_not_fit_is_refused(small):
    with pytest.raises(UsageError, match="unknown stage 'layer4'"):
        make_plan(small, plan=[Phase("layer4")])


def test_the_command_prints_yaml_or_json():
    result = CliRunner().invoke(command, ["timm:test_resnet", "--plan", "full", "--epochs", "3"])
    assert result.exit_code == 0, result.exception
    assert "- frostline: head\n  epochs: 0\n" in result.output
    assert "  epochs: 3\n" in result.output
    result = CliRunner().invoke(command, ["timm:test_resnet", "--json"])
    assert json.loads(result.output)["phases"][0]["frostline"] == "head"


def test_what_auto_decides_beside_the_phases_is_told(tmp_path):
    """A plan file and these flags make the fit that --plan auto makes."""
    random = np.random.default_rng(0)
    for label, count in (("many", 220), ("few", 20)):
        for number in range(count):
            file = tmp_path / "data" / label / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 255, (12, 12, 3)).astype(np.uint8)).save(file)
    result = CliRunner().invoke(command, ["timm:test_efficientnet", "--data", str(tmp_path / "data")])
    assert result.exit_code == 0, result.exception
    assert (
        "--backbone timm:test_efficientnet --image-size 128 --class-weights balanced --plan THIS-FILE" in result.output
    )
    assert "race: true tries two learning rates" in result.output
    result = CliRunner().invoke(command, ["timm:test_efficientnet", "--data", str(tmp_path / "data"), "--json"])
    printed = json.loads(result.stdout)
    assert (printed["image_size"], printed["class_weights"]) == (128, "balanced")


def test_an_error_says_in_which_phase_of_which_file(tmp_path, small):
    file = tmp_path / "mine.yaml"
    file.write_text("- head\n- layer4\n")
    with pytest.raises(UsageError, match=r"mine\.yaml, phase 2: unknown stage 'layer4'"):
        make_plan(small, plan=file)
    with pytest.raises(UsageError, match=r"phase 3: the frostline rises to 'block2'"):
        make_plan(small, plan=[Phase("block2"), Phase("stem"), Phase("block2")])
