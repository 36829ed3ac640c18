"""One attempt at a phase: it starts where it should, ends when it should, and gives what was measured."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from frostline.errors import DivergedError
from frostline.fitting.attempt import Incumbent, Inputs, attempt, judged, learnt
from frostline.fitting.decisions import image_losses
from frostline.fitting.phase import run_phase
from frostline.fitting.progress import Progress
from frostline.network.part import weights_of
from frostline.plan import Phase
from frostline.tasks import classification
from frostline.training.training import Training

HEAD = Phase("head", epochs=0)
PHASE = Phase("block2", epochs=4, patience=4, lr=1e-3, batch_size=8, batchnorm="frozen")


def _diverged_after(epochs: int):
    judged_before = Training._judged

    def judged_now(self, epoch, **how):
        if epoch > epochs:
            raise DivergedError("the validation loss became nan")
        return judged_before(self, epoch, **how)

    return judged_now


@pytest.fixture
def ready(job_of):
    """A job after its head, and what the next phase trains on."""

    def make(phase: Phase = PHASE, **options):
        job = job_of(plan=[HEAD, phase], **options)
        progress = run_phase(job, Progress(job.images), HEAD)
        lower, upper = job.network.cut(phase.frostline)
        parts = [job.placement.activations(1, lower, job.images.splits[name], name) for name in ("train", "valid")]
        inputs = Inputs(upper, *parts)
        return job, progress, inputs, Incumbent(weights_of(upper), *judged(job, phase, inputs))

    return make


def test_the_best_is_what_is_given_back(ready):
    job, progress, inputs, before = ready()
    made = attempt(job, progress, PHASE, inputs, before)
    assert len(made.epochs) == 4
    assert made.loss <= min(epoch.deciding_loss for epoch in made.epochs) + 1e-6
    inputs.upper.load_state_dict(made.weights)
    _, _, loss = judged(job, PHASE, inputs)
    assert loss == pytest.approx(made.loss, rel=1e-4)
    assert len(made.progress.epochs) == len(progress.epochs) + 4


def test_where_a_phase_has_to_prove_itself_its_end_counts_and_is_measured_by_what_proves_it(ready):
    phase = replace(PHASE, race=True, lr=3e-2, schedule="constant")
    random = np.random.default_rng(0)  # noise: whatever is said of it is too sure
    images, labels = random.integers(0, 255, (120, 32, 32, 3)).astype(np.uint8), np.arange(120) % 2
    data = {"train": (images[:80], labels[:80]), "valid": (images[80:], labels[80:])}
    job, progress, inputs, before = ready(phase, data=data)
    made = attempt(job, progress, phase, inputs, before)
    assert made.loss == made.epochs[-1].deciding_loss > min(epoch.deciding_loss for epoch in made.epochs)
    assert any(epoch.deciding_loss < epoch.valid_loss - 1e-6 for epoch in made.epochs)  # at its best temperature
    assert float(image_losses(job.objective, made.outputs).mean()) == pytest.approx(made.loss, rel=1e-6)
    inputs.upper.load_state_dict(made.weights)
    assert judged(job, phase, inputs)[2] == pytest.approx(made.loss, rel=1e-4)


def test_where_a_phase_has_to_prove_itself_patience_does_not_end_it(ready):
    """What counts is its end, and stopped by patience that would be the worst of what there was."""
    phase = replace(PHASE, race=True, patience=1, lr=3e-2, schedule="constant")
    job, progress, inputs, before = ready(phase)
    assert len(attempt(job, progress, phase, inputs, replace(before, loss=math.inf)).epochs) == 4


@pytest.mark.parametrize("diverges", [False, True])
def test_afterwards_the_network_is_as_for_evaluation(diverges, ready, monkeypatch):
    phase = replace(PHASE, race=True)
    job, progress, inputs, before = ready(phase)
    if diverges:
        monkeypatch.setattr(Training, "_judged", _diverged_after(2))
    attempt(job, progress, phase, inputs, before)
    assert not any(module.training for module in inputs.upper.modules())


def test_every_attempt_starts_from_the_same_weights(ready):
    job, progress, inputs, before = ready()
    first = attempt(job, progress, PHASE, inputs, before)
    again = attempt(job, progress, PHASE, inputs, before)
    assert [epoch.valid_loss for epoch in first.epochs] == [epoch.valid_loss for epoch in again.epochs]
    assert all(torch.equal(value, again.weights[name]) for name, value in first.weights.items())


@pytest.mark.parametrize(("at_half", "epochs"), [(math.inf, 4), (-1.0, 2)])
def test_who_is_behind_at_half_time_leaves(at_half, epochs, ready):
    job, progress, inputs, before = ready()
    assert len(attempt(job, progress, PHASE, inputs, before, at_half).epochs) == epochs


def test_an_attempt_that_gets_nowhere_has_no_lower_loss_than_what_was_there(ready):
    phase = replace(PHASE, lr=1e-12)
    job, progress, inputs, before = ready(phase)
    assert attempt(job, progress, phase, inputs, before).loss >= before.loss - 1e-6


@pytest.mark.parametrize(("train_accuracy", "is_learnt"), [(0.8, False), (0.84, False), (0.85, True), (1.0, True)])
def test_learnt_is_three_quarters_as_wrong_as_on_validation_images(train_accuracy, is_learnt, ready):
    job, *_ = ready()
    logits = torch.eye(2)[[0] * 8 + [1] * 2]
    valid = classification.TASK.outputs(logits, torch.zeros(10, dtype=torch.long))  # 20 % are wrong
    assert learnt(job, train_accuracy + 1e-9, valid) is is_learnt
