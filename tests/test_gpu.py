"""On an accelerator the same answers come out. Run by `make bench-gpu`; skipped where there is none."""

from __future__ import annotations

import csv
import gc
import subprocess
import sys

import numpy as np
import pytest
import torch

import frostline
from conftest import SIZE, draw_images, small_backbone, small_model
from frostline.data.views import Views
from frostline.engines.choice import engine_of, release
from frostline.engines.eager import forward_from, reference
from frostline.engines.pipeline import run
from frostline.machine import find_machine
from frostline.network.network import Network
from frostline.plan import Phase
from frostline.preprocessing import Preprocessing
from frostline.store.activations import computed_once

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
HOW = Preprocessing(size=SIZE, resize=36)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_frozen_part_gives_the_processors_numbers(precision):
    lower, _ = Network(small_model(), HOW).cut("head")
    pictures = np.random.default_rng(0).integers(0, 256, (200, SIZE, SIZE, 3), np.uint8)
    right = reference(lower, find_machine("cpu", "fp32"), pictures)[0]
    (rows,) = run(engine_of(lower, find_machine("cuda", precision)), pictures)
    assert rows.device.type == "cpu"
    tolerance = 1e-3 if precision == "fp32" else 0.05
    assert float((rows.float() - right).norm() / right.norm()) < tolerance


def test_the_frozen_part_is_replayed_for_any_number_of_images():
    lower, _ = Network(small_model(), HOW).cut("head")
    machine = find_machine("cuda", "fp32")
    engine = engine_of(lower, machine)
    assert engine.name == "graphs"
    pictures = np.random.default_rng(1).integers(0, 256, (engine.images, SIZE, SIZE, 3), np.uint8)
    whole = engine.run(pictures)[0]
    torch.testing.assert_close(engine.run(pictures[:3])[0], whole[:3], rtol=1e-3, atol=1e-3)


def test_a_recorded_graph_computes_with_the_weights_of_its_part_whatever_else_takes_memory():
    lower, _ = Network(small_model(), HOW).cut("head")
    engine = engine_of(lower, find_machine("cuda", "fp32"))
    assert engine.name == "graphs"
    pictures = np.random.default_rng(2).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    right = engine.run(pictures)[0]
    gc.collect()
    sizes = [8, 64, 512, 4096, 32_768] * 500
    others = [torch.full((size,), float("nan"), device="cuda") for size in sizes]
    torch.testing.assert_close(engine.run(pictures)[0], right)
    del others


def test_rows_on_the_device_are_those_of_the_processor():
    network, images = Network(small_model(), HOW), draw_images(20)
    lower, _ = network.cut("block2")
    there, here = (
        computed_once(lower, images, Views(2), machine=find_machine(d, "fp32"), keep=True) for d in ("cuda", "cpu")
    )
    rows = torch.arange(40)
    torch.testing.assert_close(there.fetch(rows).cpu(), here.fetch(rows), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rows_made_from_a_lower_cut_are_on_the_processor(precision):
    network, machine = Network(small_model(), HOW), find_machine("cuda", precision)
    low, high = network.find("block1"), network.find("head")
    pictures = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    cpu = find_machine("cpu", "fp32")
    base, right = (reference(network.below(cut), cpu, pictures)[0] for cut in (low, high))
    rows = forward_from(network.between(low, high), machine)(base.movedim(-1, 1))
    assert (rows.device.type, rows.dtype) == ("cpu", torch.float32)
    assert float((rows - right).norm() / right.norm()) < (1e-3 if precision == "fp32" else 0.05)


def test_a_released_engine_leaves_no_memory_on_the_device():
    lower, _ = Network(small_model(), HOW).cut("head")
    release()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    pictures = np.zeros((4, SIZE, SIZE, 3), np.uint8)
    engine_of(lower, find_machine("cuda", "fp32")).run(pictures)
    assert torch.cuda.memory_allocated() > before
    release()
    gc.collect()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before


@pytest.mark.parametrize("cache", [True, False])
def test_a_fit_on_the_device_learns_what_one_on_the_processor_learns(cache, stripes, tmp_path):
    plan = [Phase("head", epochs=0), Phase("block2", epochs=3), Phase("stem", epochs=2)]
    runs = [
        frostline.fit(
            stripes, backbone=small_backbone(), plan=plan, out=tmp_path / d, device=d, cache=cache, quiet=True
        ).metrics["valid"]["accuracy"]
        for d in ("cuda", "cpu")
    ]
    assert abs(runs[0] - runs[1]) <= 0.1


def test_on_the_device_the_same_seed_gives_the_same_weights(stripes, tmp_path):
    plan = [Phase("head", epochs=1), Phase("block2", epochs=2), Phase("stem", epochs=1)]
    runs = [
        frostline.fit(stripes, backbone=small_backbone(), plan=plan, out=tmp_path / name, device="cuda", quiet=True)
        for name in "ab"
    ]
    contents = [(run.path / "model" / "model.safetensors").read_bytes() for run in runs]
    assert contents[0] == contents[1]


def test_on_the_device_evaluate_gives_the_figures_of_the_fit(stripes, tmp_path):
    options = {"device": "cuda", "precision": "fp32", "quiet": True}
    run = frostline.fit(stripes, backbone=small_backbone(), out=tmp_path / "run", **options)
    measured = frostline.evaluate(run, stripes, split="valid", device="cuda", model=small_model())
    for name in ("accuracy", "loss", "ece"):
        assert measured[name] == pytest.approx(run.metrics["valid"][name], abs=2e-6), name


def test_on_the_device_a_plan_is_weighed(photos, tmp_path):
    about = frostline.inspect("torchvision:resnet18", weights="none", data=photos, store=tmp_path)
    assert about["storing"]


def test_on_the_device_many_images_have_the_answers_of_each_alone(stripes, tmp_path, monkeypatch):
    monkeypatch.setattr("frostline.classifier.classifier.MANY", 10)
    options = {"device": "cuda", "precision": "fp32", "quiet": True, "report": False}
    run = frostline.fit(stripes, backbone=small_backbone(), plan="probe", out=tmp_path / "run", **options)
    classifier = frostline.load(run, small_model(), find_machine("cuda", "fp32"))
    assert classifier.many() is not None
    for pictures in (stripes.valid.pictures, draw_images(150, seed=7).pictures):  # stored, and new
        many = classifier.predict_proba(list(pictures))
        alone = [classifier.predict_proba(picture)[0] for picture in pictures]
        np.testing.assert_allclose(many, alone, atol=1e-4)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device here")
@pytest.mark.parametrize("batchnorm", ["frozen", "updated"])
def test_two_devices_fit_as_one_does(batchnorm, photos, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"phases: [{{frostline: layer4, epochs: 3, batchnorm: {batchnorm}}}]")
    arguments = [str(photos), "--backbone", "timm:test_resnet", "--weights", "none", "--plan", str(plan)]
    losses = []
    for count in (1, 2):
        out = tmp_path / str(count)
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m", "frostline", "fit"]
        fit = [*launch, *arguments, "--device", "cuda", "--precision", "fp32", "--out", str(out)]
        done = subprocess.run([sys.executable, *fit], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        with (out / "history.csv").open() as file:
            losses.append([float(epoch["train_loss"]) for epoch in csv.DictReader(file) if epoch["train_loss"]])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3, abs=1e-3)
