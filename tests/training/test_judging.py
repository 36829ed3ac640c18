from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from frostline.training.judging import predict_all
from trainings import of_task, segmentation, training


def test_outputs_are_of_all_rows_in_evaluation_and_leave_the_mode_alone(fp32):
    run = training(machine=fp32)
    run.upper.train()
    outputs, loss = predict_all(run.upper, run.train)
    assert run.upper.training
    assert len(outputs) == 60
    assert loss == pytest.approx(float(functional.cross_entropy(outputs.logits, outputs.targets)), rel=1e-5)
    run.upper.eval()
    with torch.no_grad():
        torch.testing.assert_close(run.upper(run.train.fetch(torch.arange(60))), outputs.logits)
    assert predict_all(run.upper, run.train, loss=lambda logits, _: logits.sum() * 0 + 2)[1] == 2


def test_the_loss_for_maps_is_the_mean_over_all_images(fp32):
    run = of_task(segmentation, fp32)
    outputs, loss = predict_all(run.upper, run.train, segmentation, lambda logits, _: logits.sum() * 0 + len(logits))
    assert len(outputs) == 60
    assert loss == pytest.approx((3 * 16 * 16 + 12 * 12) / 60)  # of batches of 16
