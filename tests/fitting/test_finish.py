from __future__ import annotations

import json
from dataclasses import replace

import pytest

import frostline
from frostline.backbones.provenance import tensors_sha256
from frostline.errors import DataError, MachineError
from frostline.fitting import finish as module
from frostline.fitting.finish import finish
from frostline.fitting.phase import run_phase
from frostline.fitting.progress import Progress

pytestmark = pytest.mark.usefixtures("no_pictures")


def done(job):
    progress = Progress(job.images)
    for phase in job.plan:
        progress = run_phase(job, progress, phase)
    return progress


@pytest.mark.parametrize("error", [DataError, MachineError, MemoryError])
def test_a_test_split_that_cannot_be_opened_does_not_cost_the_results(error, job_of, monkeypatch):
    job = job_of(plan="probe")
    progress = done(job)

    def fail(*_, **__):
        raise error("no such luck")

    monkeypatch.setattr(module, "_open_test", fail)
    with pytest.raises(error):
        finish(job, progress)
    metrics = json.loads((job.run.path / "metrics.json").read_text())
    assert metrics["valid"]["accuracy"] == progress.phases[0]["valid"]["accuracy"]
    assert metrics["test"] is None
    assert (job.run.path / "predictions.csv").read_text().count("\n") == 1 + len(job.images.valid)
    assert frostline.load_run(job.run.path).metrics["classes"] == ["flat", "tall", "plain"]


def test_what_another_process_measured_is_measured_again(job_of):
    first = job_of("first", plan="probe")
    progress = done(first)
    whole = finish(first, progress).metrics
    second = job_of("second", plan="probe")
    done(second)
    again = finish(second, replace(progress, last=None)).metrics
    assert again["valid"] == whole["valid"]
    assert again["test"] == whole["test"]
    assert again["calibration"] == whole["calibration"]


def test_a_run_says_whose_weights_it_started_from(job_of):
    job = job_of(plan="probe")
    metrics = finish(job, done(job)).metrics
    digest = tensors_sha256(job.backbone.model)
    about = {"name": "Small", "weights": "given", "licence": "unknown", "sha256": digest, "tried": []}
    assert metrics["backbone"] == about
    described = json.loads((job.run.path / "model" / "model.json").read_text())
    assert [described["licence"], described["sha256"]] == ["unknown", digest]
    assert f"licence of these weights: unknown; SHA-256: {digest}" in (job.run.path / "model/MODEL_CARD.md").read_text()


def test_no_engine_is_kept_after_a_fit(job_of):
    """Nothing trains after a head is solved, so nothing else would let it go."""
    from frostline.engines import choice

    job = job_of(plan="probe")
    progress = Progress(job.images)
    for phase in job.plan:
        progress = run_phase(job, progress, phase)
    assert choice._latest is not None
    finish(job, progress)
    assert choice._latest is None
