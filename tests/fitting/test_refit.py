"""The head that ships has seen every image that was not given to measure it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import frostline
from frostline.data import read_data
from frostline.data.images import join
from frostline.fitting.finish import finish
from frostline.fitting.phase import run_phase
from frostline.fitting.progress import Progress
from frostline.fitting.refit import refit
from frostline.plan import Phase
from frostline.store.activations import computed_once
from frostline.training.probe import solve
from frostline.verbs.evaluate import evaluate


@pytest.fixture
def pictures():
    """260 noisy bars, lying or standing: enough to hold some out."""
    random = np.random.default_rng(0)
    labels = np.arange(260) % 2
    images = random.integers(0, 90, (260, 32, 32, 3)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        x, y = random.integers(0, 20, 2)
        image[y : y + (12 if label else 3), x : x + (3 if label else 12)] += 120
    return images, labels


def after_all(job) -> Progress:
    progress = Progress(job.images)
    for phase in job.plan:
        progress = run_phase(job, progress, phase)
    return progress


def test_the_head_is_the_one_of_all_images(job_of, pictures):
    job = job_of(data=pictures, plan="probe", views=3, class_weights={"0": 1.0, "1": 3.0})
    progress = after_all(job)
    before = job.network.model.head.weight.clone()
    assert refit(job, progress) == {"frostline": "head", "images": 260}
    lower, _ = job.network.cut("head")
    views = replace(job.views, count=3)
    rows = computed_once(lower, join([job.images.train, job.images.valid]), views, machine=job.machine)
    alone = solve(rows, 2, job.options.seed, job.objective.class_weights)
    assert not torch.equal(job.network.model.head.weight, before)
    assert torch.allclose(job.network.model.head.weight, alone.weight, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"refit": False},
        {"plan": [Phase("head", epochs=2)]},
        {
            "plan": [
                Phase("head", epochs=0),
                Phase("stem", epochs=16, lr=3e-3, batch_size=8, patience=16, batchnorm="updated"),
            ]
        },
    ],
    ids=["not wanted", "a head that trained", "what trained deeper"],
)
@pytest.mark.long
def test_what_is_left_as_it_is(options, job_of, pictures):
    job = job_of(data=pictures, **{"plan": "probe", **options})
    progress = after_all(job)
    assert len(job.plan) == 1 or progress.decisions[-1]["kept"]
    before = {name: value.clone() for name, value in job.network.model.state_dict().items()}
    assert refit(job, progress) is None
    assert all(torch.equal(value, before[name]) for name, value in job.network.model.state_dict().items())


def test_images_that_were_given_to_measure_by_stay_out_of_it(job_of, pictures):
    images, labels = pictures
    data = {"train": (images[:200], labels[:200]), "valid": (images[200:], labels[200:])}
    job = job_of(data=data, plan="probe")
    assert refit(job, after_all(job)) is None


def test_the_figures_of_validation_stay_those_of_the_head_that_had_not_seen_it(small, pictures, tmp_path, no_pictures):
    options = {"backbone": small, "plan": "probe", "precision": "fp32", "quiet": True, "cache": False}
    once = frostline.fit(pictures, refit=False, out=tmp_path / "once", **options).metrics
    again = frostline.fit(pictures, out=tmp_path / "again", **options).metrics
    assert again["refit"] == {"frostline": "head", "images": 260}
    assert (once["refit"], once["validation"], again["validation"]) == (None, "split", "split")
    assert again["valid"] == once["valid"]
    assert "from a head that had not seen these" in (tmp_path / "again" / "model" / "MODEL_CARD.md").read_text()
    assert "had not seen" not in (tmp_path / "once" / "model" / "MODEL_CARD.md").read_text()


def test_the_test_images_are_measured_with_what_ships(small, pictures, tmp_path, no_pictures):
    images, labels = pictures
    whole = read_data((images, labels))
    test = read_data((images[::-1][:60].copy(), labels[::-1][:60].copy())).train
    data = frostline.ImageSet("bars", whole.classes, whole.train, whole.valid, test, validation="split")
    run = frostline.fit(data, backbone=small, plan="probe", precision="fp32", quiet=True, out=tmp_path / "run")
    found = evaluate(run, data, split="test", model=small.model)
    assert run.metrics["test"]["loss"] == pytest.approx(found["loss"], rel=1e-4)
    assert run.metrics["test"]["loss"] != run.metrics["phases"][0]["test"]["loss"]


@pytest.mark.long
def test_evaluating_on_the_validation_images_afterwards_says_that_they_were_trained_on(
    job_of, stripes, tmp_path, capsys
):
    progress_of = {}
    for name, wanted in (("with", True), ("without", False)):
        random = np.random.default_rng(0)
        folder = tmp_path / "data"
        if not folder.exists():
            from PIL import Image

            for number in range(220):
                file = folder / "ab"[number % 2] / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, 255, (12, 12, 3)).astype(np.uint8)).save(file)
        job = job_of(data=folder, plan="probe", refit=wanted, name=name)
        run = finish(job, after_all(job))
        progress_of[name] = evaluate(run, folder, split="all", model=job.backbone.model)["trained_on"]
    assert (progress_of["with"], progress_of["without"]) == (220, 176)
