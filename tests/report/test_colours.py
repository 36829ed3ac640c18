from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.report.colours import FIRST, palette


@given(st.integers(0, 300), st.integers(0, 300))
def test_fewer_classes_have_the_first_colours_of_more(a: int, b: int) -> None:
    few, many = sorted((a, b))
    assert palette(few).shape == (few, 3)
    assert np.array_equal(palette(few), palette(many)[:few])


@pytest.mark.parametrize("n", [2, 21, 151, 255, 1000])
def test_all_colours_differ(n: int) -> None:
    colours = palette(n)
    assert colours.dtype == np.uint8
    assert len(np.unique(colours, axis=0)) == n


def test_colours_of_few_classes_are_far_apart() -> None:
    colours = palette(21).astype(int)
    apart = np.abs(colours[:, None] - colours).sum(-1) + 1000 * np.eye(21, dtype=int)
    assert apart.min() > 60


def test_the_first_colours_are_those_of_all_other_pictures() -> None:
    assert [bytes(colour).hex() for colour in palette(8)] == list(FIRST)


def test_a_palette_belongs_to_its_caller() -> None:
    palette(3)[:] = 0
    assert palette(3).any()


def test_the_colours_of_the_user_come_first() -> None:
    assert palette(2, (0xFF0102, 0x0000FF)).tolist() == [[255, 1, 2], [0, 0, 255]]
