"""Phases that have to prove themselves: what pays stays, what does not is as if it never was."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import frostline
from frostline.errors import DivergedError, UsageError
from frostline.fitting import tuning
from frostline.fitting.decisions import SURE, image_losses
from frostline.fitting.phase import run_phase
from frostline.fitting.progress import Progress
from frostline.fitting.saved import progress_of, read_saved
from frostline.plan import Phase
from frostline.training.race import candidates
from frostline.training.training import Training

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
    assert progress.ended == "block2 did not improve the network"
    assert not progress.decisions[0]["kept"]
    assert progress.phases[1]["valid"] == progress.phases[0]["valid"]
    for name, value in job.network.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_fit_with_a_harmful_phase_gives_what_the_probe_gives(stripes, small, tmp_path, no_pictures):
    options = {"backbone": small, "precision": "fp32", "quiet": True, "store": tmp_path / "store"}
    probe = frostline.fit(stripes, plan="probe", views=4, out=tmp_path / "probe", **options).metrics
    harmed = frostline.fit(stripes, plan="auto", lr=10.0, out=tmp_path / "auto", **options).metrics
    for split in ("valid", "test"):
        assert harmed[split]["accuracy"] == probe[split]["accuracy"]
        assert harmed[split]["loss"] == pytest.approx(probe[split]["loss"], rel=1e-4)


def test_all_settings_are_tried_and_the_history_is_that_of_the_best(job_of, shapes, monkeypatch, anything_may_prove):
    monkeypatch.setattr(tuning, "WORTH_A_RACE", 1)
    job = job_of(data=shapes, plan=[HEAD, RACED])
    progress = after(job, 2)
    (made,) = progress.decisions
    tried = {heat["lr"]: heat for heat in made["tried"]}
    assert len(tried) == 2
    best = min(tried.values(), key=lambda heat: heat["loss"])
    assert made["lr"] == best["lr"]
    with (job.run.path / "history.csv").open() as file:
        losses = [
            float(row["deciding_loss"]) for row in csv.DictReader(file) if row["phase"] == "2" and row["epoch"] != "0"
        ]
    assert losses[-1] == pytest.approx(best["loss"])
    for heat in tried.values():
        assert len(heat["losses"]) == len(heat["accuracies"]) == heat["epochs"]
        assert heat["losses"][-1] == heat["loss"]


def test_only_a_solved_head_is_softened_before_what_lies_below_it_trains(job_of, monkeypatch, anything_may_prove):
    softened = []
    monkeypatch.setattr("frostline.fitting.attempt.soften_head", lambda *network: softened.append(network))
    job = job_of(plan=[HEAD, replace(RACED, lr=1e-3), Phase("block1", epochs=1, race=True, lr=1e-3)])
    progress = after(job, 2)
    assert len(softened) == 1
    kept = replace(progress, decisions=({**progress.decisions[0], "kept": True},), ended="")
    run_phase(job, kept, job.plan[2])
    assert len(softened) == 1  # this one has been trained
    undone = replace(progress, decisions=({**progress.decisions[0], "kept": False},), ended="")
    run_phase(job, undone, job.plan[2])
    assert len(softened) == 2


def phase_with(phase: Phase, lr: float) -> Phase:
    return replace(phase, lr=lr, batchnorm="frozen")


def test_who_is_behind_at_half_time_leaves(job_of, shapes, monkeypatch, anything_may_prove):
    monkeypatch.setattr(tuning, "WORTH_A_RACE", 1)
    monkeypatch.setattr(tuning, "candidates", lambda phase, **_: [phase_with(phase, 1e-3), phase_with(phase, 5.0)])
    job = job_of(data=shapes, plan=[HEAD, RACED])
    good, bad = after(job, 2).decisions[0]["tried"]
    assert (good["epochs"], bad["epochs"]) == (4, 2)


@pytest.mark.parametrize(("loss", "mark"), [(0.2, 0.4), (math.inf, math.inf)])
def test_half_times_are_compared_by_what_decides(loss, mark, job_of, monkeypatch):
    """Plain losses are on another scale: beside them who is behind would stay. Who diverged later sets no mark."""
    asked = []

    def attempt(job, progress, phase, inputs, before, at_half=math.inf):
        asked.append(at_half)
        epochs = tuple(SimpleNamespace(valid_loss=5.0 - n, deciding_loss=0.5 - 0.1 * n) for n in range(4))
        return SimpleNamespace(epochs=epochs, loss=loss, outputs=None, left=False)

    monkeypatch.setattr(tuning, "attempt", attempt)
    monkeypatch.setattr(tuning, "nothing_to_prove", lambda *_: False)
    tuning._race(job_of(), None, [RACED, RACED], None, None)
    assert asked == [math.inf, pytest.approx(mark)]


def test_who_left_at_half_time_does_not_win():
    """Its learning rate was still high; that the other one learnt by heart afterwards does not change that."""
    ended, left = SimpleNamespace(loss=0.5, left=False), SimpleNamespace(loss=0.4, left=True)
    assert tuning._best([ended, left]) is ended


def test_a_long_phase_races_on_a_part_of_the_images(job_of, shapes, monkeypatch, capsys, anything_may_prove):
    monkeypatch.setattr(tuning, "WORTH_A_RACE", 1)
    monkeypatch.setattr(tuning, "RACE_STEPS", 10)
    job = job_of(data=shapes, plan=[HEAD, RACED], quiet=False)
    (made,) = after(job, 2).decisions
    assert "on 20 of 240 images:" in capsys.readouterr().err
    assert [heat["images"] for heat in made["tried"]] == [20, 20, 240]


def test_further_down_what_won_is_used_again_more_gently(job_of, monkeypatch):
    job = job_of(plan=[HEAD, RACED])
    won = {"kept": True, "lr": 3e-3, "batchnorm": "updated", "phase": 2, "tried": [{}]}
    alone = {"kept": True, "lr": 0.5, "batchnorm": "frozen", "phase": 2, "tried": []}
    progress = Progress(job.images, decisions=(won, alone))
    (only,) = tuning._entrants(job, progress, RACED, None)
    assert (only.lr, only.batchnorm) == (1.5e-3, "updated")


def test_few_steps_are_not_raced(job_of):
    job = job_of(plan=[HEAD, RACED])
    _, upper = job.network.cut("block2")
    lower, _ = job.network.cut("block2")
    train = job.placement.activations(1, lower, job.images.train, "train")
    (only,) = tuning._entrants(job, Progress(job.images), RACED, tuning.Inputs(upper, train, train))
    assert only.lr == candidates(RACED, has_batchnorm=True, pretrained=True)[-1].lr


def test_where_nothing_is_left_to_prove_nothing_trains(job_of, capsys):
    job = job_of(plan=[HEAD, RACED], quiet=False)  # stripes: the probe gets them all
    progress = after(job, 2)
    assert len(progress.phases) == 1
    assert "0 of 24 validation images are wrong, too few to tell an improvement from chance" in progress.ended
    assert "trying no deeper phase: 0 of 24" in capsys.readouterr().err


def spoiled(job) -> None:
    """The statistics of the network are those of other images by far."""
    for module in job.network.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(3.0)


@pytest.mark.parametrize("race", [True, False])
@pytest.mark.parametrize("lr", [1e-3, 3e-2])
def test_what_is_kept_is_what_was_measured(race, lr, job_of, shapes, anything_may_prove):
    phase = Phase("block1", 3, race=race, batchnorm="updated", lr=lr, schedule="constant", batch_size=8, patience=3)
    job = job_of(data=shapes, plan=[HEAD, phase])
    spoiled(job)
    progress = after(job, 2)
    (made,) = progress.decisions
    assert made["kept"] is (made["loss"][1] < made["loss"][0] and (not race or made["p_value"] <= SURE))
    losses = image_losses(job.objective, progress.last.outputs)
    plain = progress.last.outputs.losses
    found = losses.mean() if race else plain.mean()
    assert float(found) == pytest.approx(made["loss"][1 if made["kept"] else 0], rel=1e-3)


def test_after_a_divergence_the_weights_are_those_of_the_figures(job_of, shapes, monkeypatch, anything_may_prove):
    phase = Phase("block1", 3, race=True, batchnorm="updated", lr=3e-2, schedule="constant", batch_size=8, patience=3)
    job = job_of(data=shapes, plan=[HEAD, phase])
    spoiled(job)
    original = Training._pass

    def fails(self):
        if self.epoch == 2:
            raise DivergedError("the training loss became nan")
        return original(self)

    progress = after(job, 1)
    monkeypatch.setattr(Training, "_pass", fails)
    progress = run_phase(job, progress, job.plan[1])
    (made,) = progress.decisions
    found = float(image_losses(job.objective, progress.last.outputs).mean())
    assert found == pytest.approx(made["loss"][1 if made["kept"] else 0], rel=1e-3)


def test_what_a_phase_freezes_keeps_its_statistics_also_where_others_are_measured(job_of, anything_may_prove):
    frozen = ("block2.norm1", "head.bias")
    job = job_of(plan=[HEAD, Phase("block1", 1, batchnorm="updated", freeze=frozen, batch_size=8, lr=1e-3)])
    progress = after(job, 1)
    before = weights(job)
    run_phase(job, progress, job.plan[1])
    for name, value in job.network.model.state_dict().items():
        if name.startswith(frozen):
            assert torch.equal(value, before[name]), name


def test_a_first_phase_has_nothing_to_prove_itself_against(job_of):
    with pytest.raises(UsageError, match="race is true in the first phase"):
        job_of(plan=[RACED])


def test_a_fit_that_goes_on_ends_where_the_other_one_ended(job_of):
    job = job_of(plan=[HEAD, RACED])
    after(job, 1)
    again = run_phase(job, progress_of(read_saved(job.run), job.images), job.plan[1])
    assert "0 of 24 validation images are wrong" in again.ended
    assert progress_of(read_saved(job.run), job.images).ended == again.ended


def test_no_other_setting_is_tried_where_the_first_leaves_too_few_mistakes(job_of, shapes, monkeypatch, capsys):
    monkeypatch.setattr(tuning, "WORTH_A_RACE", 1)
    monkeypatch.setattr("frostline.fitting.phase.nothing_to_prove", lambda *_: False)
    monkeypatch.setattr(tuning, "nothing_to_prove", lambda *_: True)
    (made,) = after(job_of(data=shapes, plan=[HEAD, RACED], quiet=False), 2).decisions
    assert len(made["tried"]) == 1
    assert "trying no other setting: too few validation images are wrong" in capsys.readouterr().err


def test_by_few_validation_images_nothing_is_tried(job_of, shapes):
    images, labels = shapes["valid"]
    job = job_of(data={"train": shapes["train"], "valid": (images[:19], labels[:19])}, plan=[HEAD, RACED])
    progress = after(job, 2)
    assert progress.ended == "19 validation images cannot prove an improvement; at least 20 can"
    assert len(progress.phases) == 1
