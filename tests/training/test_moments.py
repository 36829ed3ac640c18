"""Moments of rows: the same from any blocks, in any order, and without a lost digit."""

from __future__ import annotations

import doctest

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from frostline.training import moments
from frostline.training.moments import Moments, moments_of

FIELDS = ("mean", "scatter", "products", "counts")


def plainly(x: torch.Tensor, t: torch.Tensor, w: torch.Tensor) -> Moments:
    """Two passes over all rows at once."""
    mean = w @ x / w.sum()
    z = (x - mean) * w[:, None]
    return Moments(float(w.sum()), mean, z.T @ (x - mean), t.T @ z, w @ t)


def assert_alike(ours: Moments, other: Moments, atol: float = 1e-9) -> None:
    assert ours.total == other.total
    for name in FIELDS:
        torch.testing.assert_close(getattr(ours, name), getattr(other, name), rtol=1e-9, atol=atol)


def drawn(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=chance, dtype=torch.float64)
    return x, torch.randint(0, 3, (count,), generator=chance), torch.randint(0, 4, (count,), generator=chance).double()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), st.lists(st.integers(0, 9), min_size=1, max_size=6), st.booleans(), st.booleans())
def test_blocks_of_any_size_give_the_sums_of_all_rows(seed, sizes, weighted, indicators):
    x, y, w = drawn(seed, sum(sizes))
    w = w if weighted else torch.ones(len(x), dtype=torch.float64)
    t = functional.one_hot(y, 3).double()
    parts = zip(x.split(sizes), (t if indicators else y).split(sizes), w.split(sizes), strict=True)
    found = moments_of(((a, b, c if weighted else None) for a, b, c in parts), 5, 3)
    if w.sum():
        assert_alike(found, plainly(x, t, w))
    else:
        assert found.total == 0
        assert not found.counts.any()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), st.lists(st.integers(0, 9), min_size=2, max_size=5))
def test_sums_of_parts_add_up_in_any_order(seed, sizes):
    x, y, _ = drawn(seed, sum(sizes))
    parts = [moments_of([(a, b, None)], 5, 3) for a, b in zip(x.split(sizes), y.split(sizes), strict=True)]
    first, second = parts[0] + parts[1], parts[1] + parts[0]
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in FIELDS)
    forwards, backwards = parts[0], parts[-1]
    for part in parts[1:]:
        forwards = forwards + part
    for part in parts[-2::-1]:
        backwards = backwards + part
    whole = moments_of([(x, y, None)], 5, 3)
    assert_alike(forwards, whole)
    assert_alike(backwards, whole)


def test_large_means_cost_no_digits_even_where_a_block_is_far_from_the_others():
    """Sums of squares around zero, or around the first rows, would lose every digit of this scatter."""
    x, y, w = drawn(0, 400)
    x = x + 1e8
    x[:100] = 1e8
    t = functional.one_hot(y, 3).double()
    found = moments_of(((a, b, None) for a, b in zip(x.split(100), y.split(100), strict=True)), 5, 3)
    torch.testing.assert_close(found.scatter, plainly(x, t, torch.ones_like(w)).scatter, rtol=1e-6, atol=1e-6)


def test_wide_rows_are_multiplied_by_all_threads(monkeypatch):
    x, y, w = drawn(1, 60)
    whole = moments_of([(x, y, w)], 5, 3)
    monkeypatch.setattr(moments, "NARROW", 4)
    assert_alike(moments_of([(x, y, w)], 5, 3), whole)


def test_rows_beyond_a_block_are_split(monkeypatch):
    x, y, w = drawn(1, 60)
    whole = moments_of([(x, y, w)], 5, 3)
    monkeypatch.setattr(moments, "WORK", 1)
    monkeypatch.setattr(moments, "MOST", 20)
    assert_alike(moments_of([(x, y, w)], 5, 3), whole)


def test_the_example_runs():
    assert doctest.testmod(moments).failed == 0
