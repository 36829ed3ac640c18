"""A step of a phase, in one process."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional

from frostline.plan import Phase
from frostline.training.steps import Mix, Stepper, drawn_mix

PHASE = Phase("head", epochs=1, batchnorm="frozen")


def stepper(phase: Phase = PHASE) -> Stepper:
    computed = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 3))
    optimizer = torch.optim.SGD([{"params": list(computed.parameters()), "lr": 0.1, "highest_lr": 0.1}])
    return Stepper(computed, optimizer, functional.cross_entropy, phase, torch.device("cpu"))


def test_a_mix_is_drawn_only_where_the_phase_mixes_two_images_or_more():
    assert drawn_mix(PHASE, 8, torch.device("cpu")) is None
    mixing = replace(PHASE, mixup=0.4)
    assert drawn_mix(mixing, 1, torch.device("cpu")) is None
    mix = drawn_mix(mixing, 8, torch.device("cpu"))
    assert 0 <= mix.share <= 1
    assert mix.order.sort().values.tolist() == list(range(8))


def test_the_loss_of_mixed_images_is_mixed_as_well():
    own, x, y = stepper(), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])
    order = torch.tensor([1, 0, 3, 2])
    logits, loss = own.gradients(x, y, Mix(0.3, order))
    own.computed.eval()
    expected = own.computed(0.3 * x + 0.7 * x[order])
    torch.testing.assert_close(logits, expected)
    right = 0.3 * functional.cross_entropy(expected, y) + 0.7 * functional.cross_entropy(expected, y[order])
    torch.testing.assert_close(loss, right)


def test_an_update_moves_by_the_learning_rate_and_the_clipped_gradient():
    own = stepper(replace(PHASE, clip=0.5))
    own.set_lr(0.2)
    own.gradients(100 * torch.randn(4, 2), torch.tensor([0, 1, 2, 0]))
    before = [parameter.detach().clone() for parameter in own.parameters()]
    own.update()
    moved = torch.stack([(new.detach() - old).norm() for new, old in zip(own.parameters(), before, strict=True)]).norm()
    assert 0.2 * 0.1 * 0.5 * 0.9 < float(moved) < 0.2 * 0.1 * 0.5 * 1.001


def test_a_process_of_its_own_reads_whole_batches():
    assert torch.equal(stepper().read(torch.arange(5)), torch.arange(5))
