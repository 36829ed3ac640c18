from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from frostline.tasks.intervals import ratio, wilson


@given(st.integers(1, 3000), st.data())
def test_the_interval_holds_the_proportion(n, data):
    correct = data.draw(st.integers(0, n))
    low, high = wilson(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    assert high - low > 0


@given(st.integers(1, 3000), st.data())
def test_the_interval_is_scipys(n, data):
    correct = data.draw(st.integers(0, n))
    expected = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    assert wilson(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_interval_is_the_textbooks():
    assert wilson(145, 153) == pytest.approx((0.9002, 0.9733), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.integers(1, 1000), st.integers(2, 20))
def test_more_images_make_it_surer(n, times):
    def width(count: int) -> float:
        low, high = wilson(3 * count, 4 * count)
        return high - low

    assert width(n * times) < width(n)


def test_a_ratio_is_a_plain_number_and_none_of_nothing():
    assert ratio(1, 4) == 0.25
    assert ratio(0, 4) == 0.0
    assert ratio(0, 0) is None
    assert json.dumps([ratio(np.int64(3), np.int64(4)), ratio(np.float64(0), np.int64(0))]) == "[0.75, null]"
