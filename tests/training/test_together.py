"""Parts of a batch, and BatchNorm over all of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from frostline.distributed import Group
from frostline.training import together
from frostline.training.together import Synchronised, Together, leaves_out_parameters


def member(rank: int, size: int) -> Together:
    return Together(Group(rank, size, rank, None, None, None), nn.Identity())


@pytest.mark.parametrize(("count", "size"), [(7, 3), (4, 4), (64, 2)])
def test_the_parts_of_a_batch_are_the_batch(count, size):
    parts = [member(rank, size).part(torch.arange(count)) for rank in range(size)]
    assert torch.equal(torch.cat(parts), torch.arange(count))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_fewer_images_than_processes_are_not_split():
    assert [len(member(rank, 4).part(torch.arange(3))) for rank in range(4)] == [3] * 4
    logits = torch.ones(3, 2)
    assert member(1, 4).gathered(logits, 3) is logits


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4), (6, 5, 3, 3)], ids=lambda shape: f"{len(shape)} axes")
@pytest.mark.parametrize("affine", [True, False])
def test_batchnorm_takes_the_statistics_of_all_parts(shape, affine, monkeypatch):
    """Another process has the same part here, so that its sums are those of this one."""
    monkeypatch.setattr(together, "summed", lambda x, _: 2 * x)
    chance = torch.Generator().manual_seed(0)
    x = (3 + 2 * torch.randn(shape, generator=chance)).requires_grad_()
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    norm, usual = kind(5, affine=affine), kind(5, affine=affine)
    weight = torch.randn(shape, generator=chance)
    with Synchronised(member(0, 2).group):
        out = norm(x)
    (gradient,) = torch.autograd.grad((out * weight).sum(), x)
    whole = torch.cat([x, x])
    expected = usual(whole)
    (right,) = torch.autograd.grad((expected * torch.cat([weight, weight])).sum(), x)
    torch.testing.assert_close(out, expected[:6])
    torch.testing.assert_close(2 * gradient, right, rtol=1e-4, atol=1e-5)
    for name, value in usual.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name], value)


def test_batchnorm_in_evaluation_is_as_ever():
    norm, x = nn.BatchNorm1d(3).eval(), torch.randn(4, 3)
    with Synchronised(member(0, 2).group):
        found = norm(x)
    assert torch.equal(found, functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias))


def test_a_parameter_that_takes_no_part_is_found():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    statistics = {name: value.clone() for name, value in network.state_dict().items()}
    assert not leaves_out_parameters(network, torch.ones(1, 2))
    network.register_parameter("unused", nn.Parameter(torch.ones(1)))
    assert leaves_out_parameters(network, torch.ones(1, 2))
    assert all(torch.equal(network.state_dict()[name], value) for name, value in statistics.items())
    assert network.training
