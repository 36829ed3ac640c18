from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from conftest import state_of
from frostline.errors import DivergedError
from frostline.fitting import phase as module
from frostline.fitting.phase import run_phase
from frostline.fitting.progress import Progress
from frostline.fitting.saved import checkpoint
from frostline.plan import Phase
from frostline.training.judging import predict_all


def run(job, phases=None):
    progress = Progress(job.images)
    for phase in job.plan[:phases]:
        progress = run_phase(job, progress, phase)
    return progress


def test_progress_grows_and_the_job_stays(job_of):
    job = job_of()
    start = Progress(job.images)
    after = run_phase(job, start, job.plan[0])
    assert (len(start.phases), len(start.epochs)) == (0, 0)
    assert [result["frostline"] for result in after.phases] == ["head"]
    assert after.last is not None
    assert len(after.last.outputs) == len(job.images.valid)
    with pytest.raises(dataclasses.FrozenInstanceError):
        after.phases = ()


def test_every_epoch_is_in_the_history(job_of):
    progress = run(job_of())
    assert [(e["phase"], e["epoch"]) for e in progress.epochs] == [
        (1, 0), (2, 0), (2, 1), (2, 2), (2, 3), (3, 0), (3, 1), (3, 2),
    ]  # fmt: skip
    assert [result["epochs"] for result in progress.phases] == [0, 3, 2]


def test_a_phase_says_which_epoch_was_kept(job_of):
    progress = run(job_of())
    own = [[e for e in progress.epochs if e["phase"] == phase] for phase in (1, 2, 3)]
    best = [min(epochs, key=lambda e: e["deciding_loss"])["epoch"] for epochs in own]
    undone = {made["phase"] for made in progress.decisions if not made["kept"]}
    expected = [None if phase in undone else epoch for phase, epoch in enumerate(best, 1)]
    assert [result["kept_epoch"] for result in progress.phases] == expected
    assert expected[:2] == [0, best[1]]
    assert best[1] > 0


def test_of_a_phase_that_has_to_prove_itself_the_last_epoch_is_kept():
    epochs = [{"epoch": i, "deciding_loss": loss} for i, loss in enumerate((0.9, 0.2, 0.4))]
    assert module._kept_epoch(Phase("head", race=True), epochs) == 2
    assert module._kept_epoch(Phase("head"), epochs) == 1
    level = [{"epoch": i, "deciding_loss": 0.5} for i in range(3)]
    assert module._kept_epoch(Phase("head"), level) == 0  # no epoch is better than the start


def test_a_solved_head_that_is_worse_than_what_was_there_is_not_kept(job_of, monkeypatch):
    """The second phase solves again, and gets weights that are no good."""
    job = job_of(plan=[Phase("head", epochs=0), Phase("head", epochs=0)])
    progress = run_phase(job, Progress(job.images), job.plan[0])
    before = state_of(job.network.model)

    def spoil(network, upper, *_):
        with torch.no_grad():
            for parameter in upper.parameters():
                parameter.normal_(0, 10)
        return True

    monkeypatch.setattr(module, "solve_head", spoil)
    after = run_phase(job, progress, job.plan[1])
    assert all(torch.equal(value, before[name]) for name, value in job.network.model.state_dict().items())
    assert after.phases[1]["valid"] == progress.phases[0]["valid"]
    assert after.epochs[-1]["valid_loss"] == pytest.approx(progress.epochs[-1]["valid_loss"])


def test_a_solved_head_that_is_better_is_kept(job_of, monkeypatch):
    job = job_of(plan=[Phase("head", epochs=1, lr=1e-6), Phase("head", epochs=0)])
    progress = run(job)
    assert progress.epochs[-1]["valid_loss"] < progress.epochs[0]["valid_loss"]


def test_a_head_that_gives_no_numbers_ends_the_fit(job_of, monkeypatch):
    job = job_of(plan="probe")

    def spoil(network, upper, *_):
        with torch.no_grad():
            for parameter in upper.parameters():
                parameter.fill_(torch.nan)
        return True

    def broken(job, phase, inputs):
        return predict_all(inputs.upper, inputs.valid)[0], math.nan, math.nan

    monkeypatch.setattr(module, "solve_head", spoil)
    monkeypatch.setattr(module, "judged", broken)
    with pytest.raises(DivergedError, match="validation loss of the solved head is nan"):
        run(job)


def test_no_phase_ends_worse_than_it_began(job_of):
    job = job_of(plan=[Phase("head", epochs=0), Phase("block1", epochs=2, lr=5.0)])
    progress = run(job)
    losses = [result["valid"]["loss"] for result in progress.phases]
    assert math.isfinite(losses[1])
    assert losses[1] <= losses[0] * (1 + 1e-4)


def test_tied_weights_are_written_and_read(job_of):
    """Two names of one tensor: a checkpoint holds both."""
    from safetensors.torch import load_file

    from conftest import Small
    from frostline.backbones import load_backbone
    from frostline.preprocessing import Preprocessing

    model = Small()
    model.block2.conv2.bias = model.block2.norm2.bias = torch.nn.Parameter(torch.zeros(24))
    backbone = load_backbone(model, preprocessing=Preprocessing(size=32, resize=36))
    job = job_of(backbone=backbone, plan=[Phase("head", epochs=0), Phase("block2", epochs=1)])
    run(job)
    saved = load_file(checkpoint(job.run, 2))
    assert torch.equal(saved["block2.conv2.bias"], saved["block2.norm2.bias"])


def test_a_phase_that_did_only_harm_is_told_and_undone(job_of, capsys):
    job = job_of(plan=[Phase("head", epochs=0), Phase("block2", epochs=2, lr=5.0)], quiet=False)
    progress = run(job)
    assert "undone: no epoch had a lower validation loss" in capsys.readouterr().err
    assert progress.phases[1]["valid"]["accuracy"] == progress.phases[0]["valid"]["accuracy"]
