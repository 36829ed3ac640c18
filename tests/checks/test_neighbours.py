from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from frostline.checks import neighbours
from frostline.checks.neighbours import highest, nearest, shortened


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


@pytest.mark.parametrize("count", [20, 64, 64 * 12, 64 * 13, 64 * 40, 64 * 40 + 17])
def test_the_highest_are_those_of_topk(count):
    torch.manual_seed(0)
    values = torch.randn(9, count)
    assert torch.equal(highest(values, 12), values.topk(12).indices)


def test_directions_are_the_principal_ones():
    torch.manual_seed(0)
    rows = torch.randn(200, 40) * torch.linspace(9, 0.1, 40) @ torch.linalg.qr(torch.randn(40, 40)).Q
    centred = rows - rows.mean(0)
    exact = torch.linalg.svd(centred, full_matrices=False).S[:5]
    found = shortened(rows, 5)
    torch.testing.assert_close(found.norm(dim=0).sort(descending=True).values, exact, rtol=1e-3, atol=0)
    assert torch.equal(found, shortened(rows, 5))
    torch.testing.assert_close(shortened(rows, 40), centred, atol=1e-4, rtol=0)


def test_wide_features_take_no_square_matrix():
    """Of VGG16's 25,088 numbers that would be 2.5 GB, and its eigenvectors three times that."""
    features = torch.randn(60, 25_088)
    resource = pytest.importorskip("resource", reason="of Unix")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert nearest(features)[0].shape == (60, 5)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # kB


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
