from __future__ import annotations

from dataclasses import replace

import numpy as np
import yaml

from frostline.fitting.options import Options
from frostline.plan import Phase
from frostline.runs.config import resolved


def careful(logits, targets):
    return logits.sum()


def config_of(stripes, small, **asked):
    options = Options(**{"data": "photos", "backbone": "lite0", "plan": "probe", "seed": 0, **asked})
    config = resolved(options, stripes, small, [Phase("head", epochs=0), Phase("block2", freeze=("block2.conv1",))])
    assert yaml.safe_load(yaml.safe_dump(config)) == config
    return config


def test_names_are_resolved_and_phases_written_out(stripes, small, tmp_path):
    images = replace(stripes, origin=str(tmp_path))
    config = config_of(images, small, data=tmp_path, out=tmp_path / "run", backbone="lite0")
    assert config["data"] == str(tmp_path)
    assert config["out"] == str(tmp_path / "run")
    assert config["backbone"] == small.name
    assert [phase["frostline"] for phase in config["plan"]["phases"]] == ["head", "block2"]
    assert config["plan"]["phases"][1]["freeze"] == ["block2.conv1"]


def test_values_that_no_file_can_hold_are_called_by_their_names(stripes, small):
    config = config_of(
        stripes, small, data=stripes, loss=careful, class_weights={"flat": np.float32(2)}, lr=np.float64(0.1)
    )
    assert config["data"] == "stripes"
    assert config["loss"] == "careful"
    assert config["class_weights"] == {"flat": 2.0}
    assert config["lr"] == 0.1


def test_a_network_is_described_by_what_it_is(stripes, small):
    config = config_of(stripes, small, backbone=small, weights="pretrained", image_size=None)
    assert config["weights"] == small.weights
    assert config["image_size"] == small.preprocessing.size
