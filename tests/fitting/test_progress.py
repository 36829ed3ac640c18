from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from frostline.fitting.finish import finish
from frostline.fitting.phase import run_phase
from frostline.fitting.progress import Progress, candidates, without
from frostline.fitting.saved import checkpoint, progress_of, read_saved, write_progress
from frostline.runs.run import PROGRESS


def test_what_is_written_is_read_back(job_of):
    job = job_of()
    progress = Progress(job.images)
    for phase in job.plan[:2]:
        progress = run_phase(job, progress, phase)
    again = progress_of(read_saved(job.run), job.images)
    assert again.epochs == progress.epochs
    assert again.phases == progress.phases
    assert again.optimizer.keys() == progress.optimizer.keys() != set()
    for name, slots in progress.optimizer.items():
        assert all(torch.equal(value, again.optimizer[name][slot]) for slot, value in slots.items())
    write_progress(job, again)
    assert progress_of(read_saved(job.run), job.images).phases == progress.phases


@pytest.mark.parametrize("done", [1, 2])
def test_a_fit_that_goes_on_from_written_progress_ends_the_same(done, job_of):
    """Bit for bit, from another job: nothing that decides the rest of a fit is outside of what is written."""
    whole, first = job_of("whole"), job_of("first")
    progress = Progress(whole.images)
    for phase in whole.plan:
        progress = run_phase(whole, progress, phase)
    part = Progress(first.images)
    for phase in first.plan[:done]:
        part = run_phase(first, part, phase)
    second = job_of("second")
    rest = progress_of(read_saved(first.run), second.images)
    second.network.model.load_state_dict(load_file(checkpoint(first.run, done)), strict=False)
    for phase in second.plan[done:]:
        rest = run_phase(second, rest, phase)
    for name, value in whole.network.model.state_dict().items():
        assert torch.equal(value, second.network.model.state_dict()[name]), name
    numbers = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in rest.epochs]
    assert numbers == [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in progress.epochs]


def test_a_finished_run_has_nothing_to_go_on_with(job_of, no_pictures):
    job = job_of(plan="probe")
    progress = run_phase(job, Progress(job.images), job.plan[0])
    assert (job.run.path / PROGRESS).is_file()
    finish(job, progress)
    assert not (job.run.path / PROGRESS).exists()


def test_unreadable_images_stay_out(job_of):
    job = job_of()
    name = job.images.train.names[3]
    progress = without(Progress(job.images), (("train", name, "empty file"),))
    write_progress(job, progress)
    again = progress_of(read_saved(job.run), job.images)
    assert again.unreadable == (("train", name, "empty file"),)
    assert len(again.images.train) == len(job.images.train) - 1
    assert name not in list(again.images.train.names)
    assert len(again.images.valid) == len(job.images.valid)


def test_candidates_are_epochs_that_trained_and_heads_that_were_solved(job_of):
    job = job_of()
    progress = Progress(job.images)
    for phase in job.plan:
        progress = run_phase(job, progress, phase)
    assert candidates(progress) == 1 + 3 + 2
