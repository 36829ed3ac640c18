"""Whitened weights: another way to the same solution, with fewer passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frostline.training import probe, summing
from frostline.training.probe import solve
from frostline.training.scale import Scale, blocks_of, scale_of
from frostline.training.whitening import whitening_of
from regressions import drawn, features


def correlated(count: int = 600, views: int = 1):
    """Rows whose directions differ a hundredfold in size, as those of networks do."""
    x, y = drawn(0, count, 30, views)
    chance = np.random.default_rng(1)
    turn = np.linalg.qr(chance.normal(size=(30, 30)))[0]
    return features((x - x.mean(0)) @ (turn * np.geomspace(0.02, 20, 30)) @ turn.T + 2, y, views)


def test_there_and_back_is_where_it_was():
    rows = correlated()
    scale = scale_of(blocks_of(rows, 30))
    way = whitening_of(rows, scale, 0.1, 0)
    weights = torch.randn(3, 31, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(way.weights(way.whitened(weights)), weights)
    gradient = torch.randn(3, 31, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = torch.randn(3, 31, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close((way.gradient(gradient) * step).sum(), (gradient * way.weights(step)).sum())


def test_all_directions_curve_the_loss_alike():
    """The curvature that it takes for granted, of scatter and penalty together, is 1 in every direction."""
    rows = correlated(200)
    scale = scale_of(blocks_of(rows, 30))
    way = whitening_of(rows, scale, 0.1, 0)  # fewer rows than it samples, so the scatter is that of all
    ((x, _),) = rows.batches(1000)
    z = (x.double() - x.double().mean(0)) / scale.deviation.double()
    curvature = torch.block_diag(0.05 * z.T @ z + 10 * torch.eye(30).double(), torch.tensor([[0.05 * 200]]).double())
    torch.testing.assert_close(way.out.T @ curvature @ way.out, torch.eye(31).double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("views", [1, 2])
def test_few_passes_over_many_rows_give_the_head_of_all(monkeypatch, views):
    rows, passes = correlated(600, views), {}
    real, counted = probe._fit, []

    def noting(total, *others):
        def counting(*asked):
            counted.append(1)
            return total(*asked)

        return real(counting if len(others) > 4 else total, *others)

    monkeypatch.setattr(probe, "_fit", noting)
    heads = {}
    for many in (10**9, 0):
        monkeypatch.setattr(summing, "MANY", many)
        counted.clear()
        heads[many] = solve(rows, 3)
        passes[many] = len(counted)
    assert heads[0].c == heads[10**9].c
    x, y = next(rows.batches(10_000))
    said = {many: (x @ head.weight.T + head.bias).softmax(1) for many, head in heads.items()}
    assert passes[0] <= 16
    assert passes[0] < 0.7 * passes[10**9]
    assert (said[0].argmax(1) == y).float().mean() > 0.95
    torch.testing.assert_close(said[0], said[10**9], rtol=0, atol=0.05)


def test_features_that_never_vary_and_a_single_row_stay_finite():
    rows = features(np.full((1, 4), 7.0), np.array([0]))
    way = whitening_of(rows, Scale(torch.full((4,), 7.0), torch.ones(4)), 0.1, 0)
    assert bool(way.out.isfinite().all() and way.back.isfinite().all())
