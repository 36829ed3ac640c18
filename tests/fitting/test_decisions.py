"""What a phase was worth is said, stored and true."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from frostline.fitting.decisions import decision
from frostline.fitting.finish import finish
from frostline.fitting.phase import run_phase
from frostline.fitting.progress import Progress, read_progress
from frostline.plan import Phase
from frostline.tasks import classification, multilabel, segmentation
from frostline.tasks.paired import paired_difference

HEAD, HARMLESS, HARMFUL = Phase("head", epochs=0), Phase("block2", epochs=2), Phase("block2", epochs=2, lr=5.0)


def outputs(right: list[int]):
    logits = torch.nn.functional.one_hot(torch.tensor(right), 2).float() * 4
    return classification.outputs(logits, torch.ones(len(right), dtype=torch.long))


def test_the_difference_is_that_of_the_same_images():
    before, after = outputs([1, 0, 0, 1, 0]), outputs([1, 1, 1, 1, 0])
    made = decision(classification.TASK, before, after, phase=2, frostline="layer4", how="trained", kept=True)
    assert made.accuracy == paired_difference(np.array([1, 1, 1, 1, 0]), np.array([1, 0, 0, 1, 0]))
    assert made.accuracy.difference == pytest.approx(0.4)
    assert made.loss == (pytest.approx(float(before.losses.mean())), pytest.approx(float(after.losses.mean())))
    assert json.loads(json.dumps(made.as_json()))["loss"][1] < made.loss[0]


@pytest.mark.parametrize(
    ("task", "logits", "targets"),
    [
        (classification, torch.randn(9, 3), torch.randint(3, (9,))),
        (multilabel, torch.randn(9, 2), torch.randint(2, (9, 2)).float()),
        (segmentation, torch.randn(9, 3, 4, 4), torch.randint(3, (9, 4, 4))),
    ],
)
def test_the_mean_score_is_the_accuracy_of_every_task(task, logits, targets):
    scores = task.scores(task.outputs(logits, targets))
    assert scores.shape == (9,)
    assert float(scores.mean()) == pytest.approx(task.accuracy(logits, targets))


@pytest.mark.parametrize("phase", [HARMLESS, HARMFUL])
def test_a_fit_tells_and_stores_what_each_phase_was_worth(phase, job_of, capsys):
    job = job_of(plan=[HEAD, phase], quiet=False)
    progress = Progress(job.images)
    for each in job.plan:
        progress = run_phase(job, progress, each)
    (made,) = progress.decisions
    losses = [epoch["valid_loss"] for epoch in progress.epochs if epoch["phase"] == 2]
    assert made["kept"] is bool(min(losses[1:]) < losses[0])
    assert made["loss"] == pytest.approx((losses[0], min(losses[1:])), rel=1e-4)
    word = "kept" if made["kept"] else "undone: no epoch had a lower validation loss than the start of the phase"
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "points (95 %" in line]
    assert line.startswith("  block2 trained: ")
    assert line.endswith(f", {word}")
    assert read_progress(job.run, job.images).decisions[0]["accuracy"] == made["accuracy"]
    assert finish(job, progress).metrics["decisions"][0]["kept"] is made["kept"]


def test_a_harmful_phase_is_undone_and_its_harm_is_the_evidence(job_of):
    job = job_of(plan=[HEAD, HARMFUL])
    progress = Progress(job.images)
    for each in job.plan:
        progress = run_phase(job, progress, each)
    (made,) = progress.decisions
    assert not made["kept"]
    assert made["loss"][1] > made["loss"][0]
    assert progress.phases[1]["valid"] == pytest.approx(progress.phases[0]["valid"], abs=1e-6)


def test_a_head_that_is_solved_again_is_a_decision_too(job_of):
    job = job_of(plan=[HEAD, replace(HEAD)])
    progress = Progress(job.images)
    for each in job.plan:
        progress = run_phase(job, progress, each)
    (made,) = progress.decisions
    assert (made["how"], made["phase"], made["frostline"]) == ("solved", 2, "head")
