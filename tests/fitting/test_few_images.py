"""Of few images none are held out: the head is solved on all, and each is predicted by a head that has not seen it."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import frostline
from conftest import small_backbone
from frostline.fitting.finish import finish
from frostline.fitting.phase import measured, run_phase
from frostline.fitting.progress import Progress
from frostline.fitting.saved import progress_of, read_saved
from frostline.plan import Phase
from frostline.tasks.weights import class_weights
from frostline.training.probe import cross_fitted, solve


def noise(count: int):
    """Images that say nothing of their labels: whoever has seen them knows them, whoever has not cannot."""
    random = np.random.default_rng(0)
    return random.integers(0, 255, (count, 32, 32, 3)).astype(np.uint8), np.arange(count) % 2


@pytest.mark.parametrize("plan", ["auto", "probe", [Phase("head", epochs=0)]], ids=str)
def test_all_images_are_for_training(plan, job_of):
    job = job_of(data=noise(60), plan=plan)
    assert job.images.validation == "crossed"
    assert len(job.images.train) == len(job.images.valid) == 60
    assert len(job.plan) == 1
    progress = run_phase(job, Progress(job.images), job.plan[0])
    lower, _ = job.network.cut("head")
    train = job.placement.activations(0, lower, job.images.train, "train")
    alone = solve(train, 2, job.options.seed)
    assert np.allclose(job.network.model.head.weight.detach(), alone.weight, atol=1e-5)
    expected = cross_fitted(train, 2, job.options.seed)
    assert np.allclose(progress.last.outputs.logits, expected, atol=1e-5)


def test_what_cannot_be_known_is_not_known(job_of):
    """The head that ships knows noise by heart; what is told of it is what chance gives."""
    job = job_of(data=noise(120), plan="probe")
    progress = run_phase(job, Progress(job.images), job.plan[0])
    assert progress.phases[0]["valid"]["accuracy"] < 0.7


def test_another_process_measures_the_same(job_of):
    job = job_of(data=noise(60), plan="probe")
    progress = run_phase(job, Progress(job.images), job.plan[0])
    again, _ = measured(job, progress_of(read_saved(job.run), job.images))
    assert np.allclose(again.outputs.logits, progress.last.outputs.logits, atol=1e-5)


def test_the_run_says_how_it_was_measured(job_of, no_pictures):
    job = job_of(data=noise(60), plan="probe")
    run = finish(job, run_phase(job, Progress(job.images), job.plan[0]))
    assert run.metrics["validation"] == "crossed"
    assert run.metrics["refit"] == {"frostline": "head", "images": 60}
    assert run.metrics["valid"]["n"] == run.metrics["calibration"]["n"] == 60
    assert [row["split"] for row in run.split] == ["train"] * 60
    assert "heads that had not seen the image" in (run.path / "model" / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (220, {"plan": "probe"}),
        (60, {"plan": "full", "epochs": 1}),
        (60, {"plan": "auto", "mixup": 0.2}),
    ],
    ids=["many", "more than a head", "a head that cannot be solved"],
)
def test_else_a_fifth_is_held_out(count, options, job_of):
    job = job_of(data=noise(count), **options)
    assert job.images.validation == "split"
    assert not set(job.images.train.names) & set(job.images.valid.names)


def test_validation_images_that_were_given_are_used(job_of):
    images, labels = noise(60)
    job = job_of(data={"train": (images[:40], labels[:40]), "valid": (images[40:], labels[40:])}, plan="probe")
    assert job.images.validation == "given"


def test_an_image_that_cannot_be_read_is_left_out_once(small, tmp_path, no_pictures):
    for number in range(101):
        file = tmp_path / "data" / "ab"[number % 2] / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(1)[0][0] // (1 + number % 2)).save(file)
    (tmp_path / "data" / "a" / "004.png").write_text("no picture")
    run = frostline.fit(tmp_path / "data", backbone=small, plan="probe", quiet=True, out=tmp_path / "run")
    assert [each["path"] for each in run.metrics["unreadable"]] == ["a/004.png"]
    assert run.metrics["valid"]["n"] == run.metrics["refit"]["images"] == len(run.predictions) == 100


def test_looking_at_the_head_draws_nothing_from_the_programs_own_generator(job_of):
    before = torch.get_rng_state()
    assert job_of(data=noise(60), plan="probe").images.validation == "crossed"
    assert torch.equal(torch.get_rng_state(), before)


def test_classes_weigh_what_they_do_among_all_images(job_of):
    images, labels = noise(60)
    labels[:30] = 0
    job = job_of(data=(images, labels), plan="probe", class_weights="balanced")
    assert job.objective.class_weights.tolist() == class_weights("balanced", labels, ("0", "1")).tolist()


def test_several_labels(small, tmp_path, no_pictures):
    images, _ = noise(50)
    labels = np.random.default_rng(1).random((50, 3)) < 0.4
    run = frostline.fit((images, labels), backbone=small, plan="probe", quiet=True, cache=False, out=tmp_path / "run")
    assert (run.metrics["task"], run.metrics["validation"], run.metrics["valid"]["n"]) == ("multilabel", "crossed", 50)


def test_the_single_image_of_a_class_does_no_harm(small, tmp_path, no_pictures):
    images, labels = noise(31)
    labels[-1] = 2
    run = frostline.fit((images, labels), backbone=small, plan="auto", quiet=True, cache=False, out=tmp_path / "run")
    assert run.metrics["validation"] == "crossed"
    with (run.path / "predictions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 31
    assert json.loads((run.path / "metrics.json").read_text())["valid"]["per_class"]["2"]["recall"] == 0


def test_copies_of_an_image_are_in_one_fold(tmp_path, monkeypatch):
    chance = np.random.default_rng(4)
    pictures = chance.integers(0, 256, (30, 40, 40, 3)).astype(np.uint8)
    labels = np.arange(30) % 2
    data = (np.concatenate([pictures, pictures]), np.concatenate([labels, labels]))
    seen = []

    def noting(rows, *others):
        seen.append((rows.images, others[-1]))
        return cross_fitted(rows, *others)

    monkeypatch.setattr("frostline.fitting.phase.cross_fitted", noting)
    run = frostline.fit(data, backbone=small_backbone(), plan="probe", out=tmp_path / "run", quiet=True, report=False)
    assert run.metrics["validation"] == "crossed"
    ((images, group),) = seen
    content = [digest.tobytes() for digest in images.digests.all()]
    for one, own in zip(content, group, strict=True):
        assert {other for other, number in zip(content, group, strict=True) if number == own} == {one}
    assert len({*group.tolist()}) == 30
    assert run.metrics["learning_curve"] is None  # no better than chance: nothing to carry on
