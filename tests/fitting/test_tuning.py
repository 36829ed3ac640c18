"""Phases that have to prove themselves: what pays stays, what does not is as if it never was."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

import frostline
from frostline.fitting import tuning
from frostline.fitting.phase import run_phase
from frostline.fitting.progress import Progress
from frostline.plan import Phase

HEAD = Phase("head", epochs=0)
RACED = Phase("block2", epochs=4, race=True, patience=4, batch_size=8)


@pytest.fixture
def shapes() -> dict[str, object]:
    """Bars that lie or stand somewhere in noise: the pooled features of a random network do not tell them apart."""
    random = np.random.default_rng(0)

    def some(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 2
        images = random.integers(0, 90, (count, 32, 32, 3)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            x, y = random.integers(0, 20, 2)
            width, height = (12, 3) if label else (3, 12)
            image[y : y + height, x : x + width] += 120
        return images, labels

    return {"train": some(240), "valid": some(120)}


def after(job, phases: int) -> Progress:
    progress = Progress(job.images)
    for phase in job.plan[:phases]:
        progress = run_phase(job, progress, phase)
    return progress


def weights(job) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in job.network.model.state_dict().items()}


@pytest.fixture
def anything_may_prove(monkeypatch) -> None:
    monkeypatch.setattr("frostline.fitting.phase.nothing_to_prove", lambda *_: False)


def test_a_phase_that_pays_is_kept_with_its_proof(job_of, shapes, anything_may_prove):
    job = job_of(data=shapes, plan=[HEAD, Phase("stem", epochs=8, race=True, patience=8, lr=3e-3, batch_size=8)])
    first = after(job, 1)
    progress = run_phase(job, first, job.plan[1])
    (made,) = progress.decisions
    assert first.phases[0]["valid"]["accuracy"] < 0.7
    assert made["kept"]
    assert made["p_value"] <= 0.05
    assert made["loss"][1] < made["loss"][0]
    assert made["accuracy"]["difference"] > 0
    assert progress.phases[1]["valid"]["accuracy"] > first.phases[0]["valid"]["accuracy"]


@pytest.mark.parametrize("lr", [10.0, 100.0])
def test_a_harmful_phase_leaves_every_weight_as_it_was_and_ends_the_plan(lr, job_of, anything_may_prove):
    """The learning rate is absurd: it diverges or spoils everything, and the fit ends well all the same."""
    job = job_of(plan=[HEAD, Phase("block2", epochs=2, race=True, lr=lr), Phase("block1", race=True)])
    progress = after(job, 1)
    before = weights(job)
    progress = run_phase(job, progress, job.plan[1])
    assert progress.ended == "block2 did not pay"
    assert not progress.decisions[0]["kept"]
    assert progress.phases[1]["valid"] == pytest.approx(progress.phases[0]["valid"], abs=1e-6)
    for name, value in job.network.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_fit_with_a_harmful_phase_gives_what_the_probe_gives(stripes, small, tmp_path, no_pictures):
    options = {"backbone": small, "precision": "fp32", "quiet": True, "cache_dir": tmp_path / "store"}
    probe = frostline.fit(stripes, plan="probe", out=tmp_path / "probe", **options).metrics
    harmed = frostline.fit(stripes, plan="auto", lr=10.0, out=tmp_path / "auto", **options).metrics
    for split in ("valid", "test"):
        assert harmed[split]["accuracy"] == probe[split]["accuracy"]
        assert harmed[split]["loss"] == pytest.approx(probe[split]["loss"], rel=1e-4)


def test_all_settings_are_tried_and_the_history_is_that_of_the_best(job_of, shapes, monkeypatch, anything_may_prove):
    monkeypatch.setattr(tuning, "WORTH_A_RACE", 1)
    job = job_of(data=shapes, plan=[HEAD, RACED])
    progress = after(job, 2)
    (made,) = progress.decisions
    tried = {(heat["lr"], heat["batchnorm"]): heat for heat in made["tried"]}
    assert len(tried) == 2
    best = min(tried.values(), key=lambda heat: heat["loss"])
    assert (made["lr"], made["batchnorm"]) == (best["lr"], best["batchnorm"])
    with (job.run.path / "history.csv").open() as file:
        losses = [
            float(row["valid_loss"]) for row in csv.DictReader(file) if row["phase"] == "2" and row["epoch"] != "0"
        ]
    assert min(losses) == pytest.approx(best["loss"])


def phase_with(phase: Phase, lr: float) -> Phase:
    return replace(phase, lr=lr, batchnorm="frozen")


def test_who_is_behind_at_half_time_leaves(job_of, shapes, monkeypatch, anything_may_prove):
    monkeypatch.setattr(tuning, "WORTH_A_RACE", 1)
    monkeypatch.setattr(tuning, "candidates", lambda phase, **_: [phase_with(phase, 1e-3), phase_with(phase, 5.0)])
    job = job_of(data=shapes, plan=[HEAD, RACED])
    good, bad = after(job, 2).decisions[0]["tried"]
    assert (good["steps"], bad["steps"]) == (4, 2)


def test_a_long_phase_races_on_a_part_of_the_images(job_of, shapes, monkeypatch, capsys, anything_may_prove):
    monkeypatch.setattr(tuning, "WORTH_A_RACE", 1)
    monkeypatch.setattr(tuning, "RACE_STEPS", 10)
    job = job_of(data=shapes, plan=[HEAD, RACED], quiet=False)
    (made,) = after(job, 2).decisions
    assert "on 20 of 240 images:" in capsys.readouterr().err
    assert len(made["tried"]) == 1


def test_further_down_what_won_is_used_again_more_gently(job_of, monkeypatch):
    job = job_of(plan=[HEAD, RACED])
    won = {"kept": True, "lr": 3e-3, "batchnorm": "updated", "phase": 2}
    progress = Progress(job.images, decisions=({"kept": True, "lr": None, "batchnorm": None, "phase": 1}, won))
    (only,) = tuning._entrants(job, progress, RACED, None)
    assert (only.lr, only.batchnorm) == (1.5e-3, "updated")


def test_few_steps_are_not_raced(job_of):
    job = job_of(plan=[HEAD, RACED])
    _, upper = job.network.cut("block2")
    lower, _ = job.network.cut("block2")
    train = job.placement.activations(1, lower, job.images.train, "train")
    (only,) = tuning._entrants(job, Progress(job.images), RACED, tuning.Inputs(upper, train, train))
    assert only.batchnorm in ("frozen", "updated")


def test_where_nothing_is_left_to_prove_nothing_trains(job_of, capsys):
    job = job_of(plan=[HEAD, RACED], quiet=False)  # stripes: the probe gets them all
    progress = after(job, 2)
    assert len(progress.phases) == 1
    assert "0 of 24 validation images are wrong, too few to tell an improvement from chance" in progress.ended
    assert "nothing deeper is tried: 0 of 24" in capsys.readouterr().err
