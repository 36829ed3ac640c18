from __future__ import annotations

import doctest

import torch
from hypothesis import given
from hypothesis import strategies as st

from frostline.training import scale
from frostline.training.scale import Blocks, scale_of


def blocks(x: torch.Tensor, size: int) -> Blocks:
    return lambda: ((part, torch.zeros(len(part))) for part in x.split(size))


@given(st.integers(0, 99), st.integers(1, 50), st.integers(1, 60))
def test_mean_and_deviation_are_those_of_all_rows_in_blocks_of_any_size(seed, rows, size):
    chance = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 6, generator=chance) * torch.tensor([1e-3, 1, 2, 3, 100, 0]) + 1000
    ours, deviation = scale_of(blocks(x, size)), x.double().std(0, unbiased=False)
    torch.testing.assert_close(ours.mean, x.double().mean(0).float())
    varied = deviation[deviation > 1e-6]
    least = float(varied.clamp(max=10 * varied.quantile(0.75)).mean()) if len(varied) else 1.0
    torch.testing.assert_close(ours.deviation, deviation.clamp(min=least).float(), rtol=1e-3, atol=1e-6)


def test_a_feature_that_hardly_varies_is_not_made_larger_than_it_is():
    x = torch.tensor([[0.0, 5.0], [2.0, 5.001]])
    z = (x - scale_of(blocks(x, 2)).mean) / scale_of(blocks(x, 2)).deviation
    assert z[:, 1].abs().max() < 0.01


def test_one_feature_in_another_unit_leaves_the_others_as_they_are():
    x = torch.randn(200, 20, generator=torch.Generator().manual_seed(0))
    x[:, 3] *= 1e6
    deviation = scale_of(blocks(x, 50)).deviation
    assert deviation[3] > 9e5
    assert 1 < deviation[:3].max() < 1.6


def test_features_that_never_vary_are_divided_by_one():
    ours = scale_of(blocks(torch.full((4, 3), 7.0), 2))
    assert torch.equal(ours.deviation, torch.ones(3))
    assert torch.equal(ours.mean, torch.full((3,), 7.0))


def test_the_example_runs():
    assert doctest.testmod(scale).failed == 0
