from __future__ import annotations

import dataclasses

import pytest

from frostline.fitting.job import Job, Objective


@pytest.mark.parametrize("kind", [Job, Objective])
def test_a_job_does_not_change(kind, job_of):
    job = job_of()
    value = job if kind is Job else job.objective
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, None)


def test_one_loss_trains_and_decides_but_for_smoothed_labels(job_of):
    import torch

    objective = job_of(label_smoothing=0.3).objective
    logits, targets = torch.randn(8, 3), torch.arange(8) % 3
    assert objective.loss(logits, targets) != objective.monitor(logits, targets)
    assert objective.monitor(logits, targets) == job_of("plain").objective.loss(logits, targets)
