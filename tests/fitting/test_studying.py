from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

import frostline
from conftest import draw_images, small_model
from frostline.backbones import load_backbone
from frostline.checks.samples import samples_of
from frostline.data.images import Images
from frostline.fitting.studying import studied
from tasks_data import HOW, several_labels

pytestmark = pytest.mark.usefixtures("no_pictures")


def fitted(images, tmp_path, **options):
    backbone = load_backbone(small_model(len(images.classes)), preprocessing=HOW)
    return frostline.fit(images, backbone=backbone, plan="probe", out=tmp_path / "run", precision="fp32", **options)


def worth(run):
    with (run.path / "worth.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_fit_says_whether_more_images_help(stripes, tmp_path, capsys):
    curve = fitted(stripes, tmp_path).metrics["learning_curve"]
    assert curve["points"][-1]["images"] == len(stripes.train)
    for point in curve["points"]:
        assert point["interval"][0] <= point["accuracy"] <= point["interval"][1]
    then = curve["doubled"]
    assert then["images"] == 2 * len(stripes.train)
    assert then["low"] <= then["expected"] <= then["high"]
    assert curve["per_class"].keys() == set(stripes.classes)
    won = 100 * (then["expected"] - curve["points"][-1]["accuracy"])
    assert f"would change the solved head's accuracy by about {won:+.1f} points (80 %: " in capsys.readouterr().err


def test_every_training_image_has_a_worth_the_most_harmful_first(stripes, tmp_path):
    targets = stripes.train.targets.copy()
    wrong = [0, 1]
    targets[wrong] = (targets[wrong] + 1) % 3
    spoiled = stripes.with_splits({"train": Images(stripes.train.pictures, targets, stripes.train.names)})
    records = worth(fitted(spoiled, tmp_path, quiet=True))
    assert {record["path"] for record in records} == set(stripes.train.names)
    values = [float(record["worth"]) for record in records]
    assert values == sorted(values)
    assert {stripes.train.names[i] for i in wrong} <= {record["path"] for record in records[:8]}
    others = {record["path"]: record["by_the_others"] for record in records}
    assert [others[stripes.train.names[i]] for i in wrong] == [stripes.classes[stripes.train.targets[i]] for i in wrong]


def test_test_images_have_no_say(stripes, tmp_path):
    found = []
    for name, seed in (("a", 1), ("b", 2)):
        run = fitted(stripes.with_splits({"test": draw_images(20, seed=seed)}), tmp_path / name, quiet=True)
        found.append((run.metrics["learning_curve"], worth(run)))
    assert found[0] == found[1]


def test_where_images_have_several_labels_or_nothing_is_stored_nothing_is_studied(stripes, tmp_path):
    run = fitted(several_labels(), tmp_path / "several", quiet=True)
    assert run.metrics["learning_curve"] is None
    run = fitted(stripes, tmp_path / "unstored", quiet=True, cache=False)
    assert json.loads((run.path / "metrics.json").read_text())["learning_curve"] is None
    assert not (run.path / "worth.csv").exists()


def test_without_validation_images_there_is_a_curve_and_no_worth(stripes):
    import torch

    features = torch.from_numpy(np.eye(3, dtype=np.float32)[stripes.train.targets])
    features = features + 0.3 * torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    study = studied(
        samples_of({"train": stripes.train}, stripes.classes, features), replace(stripes, validation="crossed")
    )
    assert study.curve is not None
    assert (study.train, study.harmful) == (None, [])
