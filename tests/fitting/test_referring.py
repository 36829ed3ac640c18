"""What a run remembers of its images for sets and reasons."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import frostline
from conftest import Small, small_model
from frostline.backbones import load_backbone
from frostline.classifier.artifact import load
from frostline.classifier.reference import noting, of_length_one, reference_of
from frostline.fitting import referring
from frostline.plan import Phase
from tasks_data import HOW, several_labels

pytestmark = pytest.mark.usefixtures("no_pictures")


def fitted(images, tmp_path, model=None, **options):
    backbone = load_backbone(model or small_model(len(images.classes)), preprocessing=HOW)
    run = frostline.fit(images, backbone=backbone, out=tmp_path / "run", precision="fp32", quiet=True, **options)
    return run, reference_of(run.path)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("plan", ["probe", [Phase("head", epochs=0), Phase("block2", epochs=2, lr=0.01, views=2)]])
def test_features_are_those_of_the_network_that_ships(plan, cache, stripes, tmp_path):
    run, known = fitted(stripes, tmp_path, plan=plan, cache=cache)
    classifier = load(run, small_model())
    with noting(classifier.model, known.layer) as noted:
        for _ in classifier.logits(stripes.train):
            pass
    expected = torch.cat([of_length_one(each) for each in noted])
    torch.testing.assert_close(known.features, expected, atol=2e-3, rtol=0)
    assert known.labels == tuple(stripes.classes[target] for target in stripes.train.targets)


def test_of_many_images_some_of_each_class_are_kept(stripes, tmp_path, monkeypatch):
    monkeypatch.setattr(referring, "MOST", 12)
    _, known = fitted(stripes, tmp_path, plan="probe")
    assert len(known.features) == len(known.distances) == 12
    assert len(known.sure) == len(stripes.valid)
    assert {known.labels.count(name) for name in stripes.classes} == {4}
    assert set(known.names) <= set(stripes.train.names)


def test_test_images_have_no_part(stripes, tmp_path):
    noise = np.random.default_rng(9).integers(0, 256, (24, 40, 40, 3)).astype(np.uint8)
    from frostline.data.images import Images

    other = stripes.with_splits({"test": Images(noise, stripes.test.targets, stripes.test.names)})
    files = [
        (fitted(images, tmp_path / name, plan="probe")[0].path / "reference.safetensors").read_bytes()
        for name, images in (("a", stripes), ("b", other))
    ]
    assert files[0] == files[1]


def test_several_labels_leave_none(tmp_path):
    images = several_labels()
    assert fitted(images, tmp_path, Small(len(images.classes)), plan="probe")[1] is None


def test_images_that_were_trained_on_promise_nothing(stripes, tmp_path):
    from frostline.data.images import Images, join

    copies = stripes.train.take(np.arange(10))
    again = Images(copies.pictures, copies.targets, [f"copy-{i}" for i in range(10)])
    leaky = stripes.with_splits({"valid": join([stripes.valid, again])})
    _, known = fitted(leaky, tmp_path, plan="probe")
    assert len(known.sure) == len(known.distances) == len(stripes.valid)


def test_of_images_that_belong_together_one_counts(stripes, tmp_path):
    from dataclasses import replace

    from frostline.data.images import Images

    valid = stripes.valid
    named = stripes.with_splits({"valid": Images(valid.pictures, valid.targets, [f"v{i}" for i in range(len(valid))])})
    groups = {f"v{i}": f"g{i // 4}" for i in range(len(valid))}
    _, known = fitted(replace(named, groups=groups), tmp_path, plan="probe")
    assert len(known.sure) == len(known.distances) == len(stripes.valid) // 4


def test_images_that_the_head_was_solved_on_in_the_end_are_training_images(stripes, tmp_path):
    from dataclasses import replace

    held_out = replace(stripes, validation="split", may_cross=False)
    run, known = fitted(held_out, tmp_path, plan="probe")
    assert run.metrics["refit"]["images"] == len(known.names) == len(known.glances) == 72
    assert set(known.names) == {*stripes.train.names, *stripes.valid.names}
    assert len(known.distances) == len(stripes.valid)
    alone, others = fitted(held_out, tmp_path / "b", plan="probe", refit=False)
    assert alone.metrics["refit"] is None
    assert len(others.names) == 48
    torch.testing.assert_close(known.distances, others.distances, atol=5e-3, rtol=0)
