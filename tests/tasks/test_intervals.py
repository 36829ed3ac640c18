from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from frostline.tasks.intervals import accuracy_of, mean_interval, ratio, wilson


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


def log_losses(chance: np.random.Generator, n: int, sureness: float) -> np.ndarray:
    """Of a calibrated classifier: right as often as it says it is."""
    p = 1 / (1 + np.exp(-np.abs(chance.normal(sureness, 1.5, n))))
    return np.where(chance.random(n) < p, -np.log(p), -np.log(1 - p))


@pytest.mark.parametrize(("n", "sureness"), [(150, 2.0), (400, 3.0), (2000, 4.0)])
def test_the_interval_of_a_log_loss_covers_in_about_95_of_100_evaluations(n, sureness):
    chance = np.random.default_rng(0)
    truth = log_losses(chance, 4_000_000, sureness).mean()
    intervals = [mean_interval(log_losses(chance, n, sureness)) for _ in range(2000)]
    assert 0.93 <= np.mean([low <= truth <= high for low, high in intervals]) <= 0.97


def test_of_what_does_not_vary_the_interval_is_a_point_and_of_one_value_none():
    assert mean_interval([0.3] * 5) == (0.3, 0.3)
    assert mean_interval([0.3]) is None
    assert mean_interval([]) is None


@given(st.lists(st.integers(-500, 500).map(lambda n: n / 100), min_size=2, max_size=30))
def test_the_interval_of_a_mean_holds_it_and_moves_with_it(values):
    low, high = mean_interval(values)
    assert low <= np.mean(values) + 1e-9
    assert high >= np.mean(values) - 1e-9
    shifted = mean_interval([value + 1 for value in values])
    assert shifted == pytest.approx((low + 1, high + 1), abs=1e-6)


def test_an_accuracy_comes_with_wilsons_interval_and_shares_with_their_own():
    assert accuracy_of([1, 1, 0, 1]) == {"accuracy": 0.75, "n": 4, "interval": list(wilson(3, 4))}
    assert accuracy_of([]) == {"accuracy": None, "n": 0, "interval": [0.0, 1.0]}
    shares = accuracy_of([0.9, 0.8, 0.95, 0.7])
    assert shares["interval"][0] < shares["accuracy"] < shares["interval"][1] <= 1
