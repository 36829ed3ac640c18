"""Test images: measured with what every phase made, after all choices, and never chosen by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import frostline
from conftest import SIZE, Counted, small_model
from frostline.backbones import load_backbone
from frostline.data.images import Images
from frostline.plan import Phase
from frostline.preprocessing import Preprocessing

pytestmark = pytest.mark.usefixtures("no_pictures")

PLAN = [Phase("head", epochs=0), Phase("block2", epochs=2, lr=1e-2), Phase("stem", epochs=2, lr=1e-3)]


def fitted(data, out, **options):
    backbone = load_backbone(small_model(), preprocessing=Preprocessing(size=SIZE, resize=36))
    return frostline.fit(data, backbone=backbone, plan=PLAN, precision="fp32", quiet=True, out=out, **options)


def test_every_phase_is_measured_with_its_own_checkpoint(stripes, tmp_path):
    run = fitted(stripes, tmp_path / "run")
    model = small_model()
    model.head = torch.nn.Linear(24, 3)
    classifier = frostline.load(run, model=small_model())
    for number, phase in enumerate(run.metrics["phases"], 1):
        model.load_state_dict({n: v for n, v in small_model().state_dict().items() if "head" not in n}, strict=False)
        checkpoint = load_file(run.path / "checkpoints" / f"phase-{number}.safetensors")
        assert {name.split(".")[0] for name in checkpoint} >= {"head"}
        assert model.load_state_dict(checkpoint, strict=False).unexpected_keys == []
        classifier.model.load_state_dict(model.state_dict())
        logits = torch.cat([part for _, part, _ in classifier.logits(stripes.test)]) * classifier.temperature
        targets = torch.from_numpy(stripes.test.targets)
        assert phase["test"]["accuracy"] == float((logits.argmax(1) == targets).float().mean())
        loss = float(torch.nn.functional.cross_entropy(logits, targets))
        assert phase["test"]["loss"] == pytest.approx(loss, rel=1e-3)
    calibrated = float(torch.nn.functional.cross_entropy(logits / classifier.temperature, targets))
    assert run.metrics["test"]["loss"] == pytest.approx(calibrated, rel=1e-3)
    assert run.metrics["test"]["accuracy"] == run.metrics["phases"][-1]["test"]["accuracy"]


def test_the_classifier_is_the_last_phase(stripes, tmp_path):
    run = fitted(stripes, tmp_path / "run")
    saved = load_file(run.path / "model" / "model.safetensors")
    last = load_file(run.path / "checkpoints" / "phase-3.safetensors")
    assert saved.keys() == last.keys()
    assert all(torch.equal(saved[name], last[name]) for name in saved)
    measured = frostline.evaluate(run, stripes, model=small_model())
    assert measured["loss"] == pytest.approx(run.metrics["test"]["loss"], rel=1e-3)


def test_nothing_is_chosen_on_test_images(stripes, tmp_path):
    noise = np.random.default_rng(9).integers(0, 256, (24, 40, 40, 3)).astype(np.uint8)
    other = stripes.with_splits({"test": Images(noise, stripes.test.targets, stripes.test.names)})
    runs = [fitted(data, tmp_path / name) for name, data in (("a", stripes), ("b", other))]
    contents = [(run.path / "model" / "model.safetensors").read_bytes() for run in runs]
    assert contents[0] == contents[1]
    rows = [[{**row, "seconds": ""} for row in run.history] for run in runs]
    assert rows[0] == rows[1]
    one, two = (run.metrics for run in runs)
    assert one["valid"] == two["valid"]
    assert one["calibration"] == two["calibration"]
    assert [phase["valid"] for phase in one["phases"]] == [phase["valid"] for phase in two["phases"]]
    assert one["test"]["accuracy"] > two["test"]["accuracy"]


def test_no_test_image_is_asked_for_before_the_last_phase_is_done(stripes, tmp_path):
    class Watched(Counted):
        def __getitem__(self, number: int) -> np.ndarray:
            done.append(len(list((tmp_path / "run" / "checkpoints").glob("phase-*"))))
            return super().__getitem__(number)

    done: list[int] = []
    pictures = Watched(24)
    test = Images(pictures, np.arange(24) % 2, [f"test-{i}" for i in range(24)])
    run = fitted(stripes.with_splits({"test": test}), tmp_path / "run")
    assert run.metrics["test"]["n"] == 24
    assert set(done) == {len(PLAN)}


def test_without_test_images_no_phase_has_a_test(stripes, tmp_path):
    run = fitted(stripes.with_splits({"test": None}), tmp_path / "run")
    assert run.metrics["test"] is None
    assert all("test" not in phase for phase in run.metrics["phases"])
