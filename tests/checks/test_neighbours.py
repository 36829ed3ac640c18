from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from frostline.checks import neighbours
from frostline.checks.neighbours import nearest


def by_all(features, count):
    unit = functional.normalize(features - features.mean(0))
    cosines = (unit @ unit.T).fill_diagonal_(-torch.inf)
    return cosines.topk(count)


@pytest.mark.parametrize(("rows", "width"), [(40, 8), (300, 200), (2, 3)])
def test_neighbours_are_those_of_all_against_all(rows, width, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK_BYTES", 4 * 300 * 7)  # seven rows at once
    torch.manual_seed(0)
    features = torch.randn(rows, 5) @ torch.randn(5, width) + 0.01 * torch.randn(rows, width)
    count = min(3, rows - 1)
    cosines, numbers = nearest(features, count)
    expected, them = by_all(features, count)
    torch.testing.assert_close(cosines, expected)
    assert (numbers == them).float().mean() > 0.99


def test_a_copy_is_found_among_thousands():
    torch.manual_seed(0)
    features = torch.randn(3000, 256)
    features[1234] = features[7] + 0.05 * torch.randn(256)
    cosines, numbers = nearest(features, 1)
    assert int(numbers[7]) == 1234
    assert float(cosines[7]) > 0.99


@pytest.mark.parametrize("rows", [0, 1])
def test_what_has_no_others_has_no_neighbours(rows):
    cosines, numbers = nearest(torch.randn(rows, 4))
    assert cosines.shape == numbers.shape == (rows, 0)


def test_rows_that_are_all_the_same_have_no_likeness():
    cosines, _ = nearest(torch.ones(30, 4))
    assert cosines.abs().max() == 0
