"""The difference of two classifiers on the same images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_rel

from frostline.tasks.intervals import wilson
from frostline.tasks.paired import paired_difference

right = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200)
shares = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30)


def columns(pairs: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.array(pairs, np.float64).T
    return first, second


@given(right | shares)
def test_the_interval_holds_the_difference_and_nothing_impossible(pairs):
    first, second = columns(pairs)
    paired = paired_difference(first, second)
    assert paired.difference == pytest.approx(first.mean() - second.mean())
    assert -1 <= paired.low <= paired.difference + 1e-9
    assert paired.difference - 1e-9 <= paired.high <= 1
    assert 0 <= paired.p_value <= 1


@given(right | shares)
def test_the_other_way_round_it_is_the_same_with_the_other_sign(pairs):
    first, second = columns(pairs)
    one, other = paired_difference(first, second), paired_difference(second, first)
    assert one.difference == pytest.approx(-other.difference)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.p_value == pytest.approx(other.p_value)


@given(right, st.randoms())
def test_the_order_of_the_images_decides_nothing(pairs, chance):
    shuffled = list(pairs)
    chance.shuffle(shuffled)
    one, other = paired_difference(*columns(pairs)), paired_difference(*columns(shuffled))
    assert (one.low, one.high, one.p_value) == (other.low, other.high, other.p_value)


def test_the_p_value_is_mcnemars_exact_one():
    first, second = columns([(1, 0)] * 9 + [(0, 1)] * 2 + [(1, 1)] * 80 + [(0, 0)] * 9)
    assert paired_difference(first, second).p_value == pytest.approx(binomtest(9, 11).pvalue)


def test_bonett_and_price_by_hand():
    """b = 9, c = 2, n = 100: (10 - 3) / 102 ± 1.96 × √((13/102 - (7/102)²) / 102)."""
    paired = paired_difference(*columns([(1, 0)] * 9 + [(0, 1)] * 2 + [(1, 1)] * 89))
    centre, half = 7 / 102, 1.959964 * np.sqrt((13 / 102 - (7 / 102) ** 2) / 102)
    assert (paired.low, paired.high) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert paired.difference == pytest.approx(0.07)


def test_two_that_never_differ_are_not_known_to_be_the_same():
    paired = paired_difference(np.ones(10), np.ones(10))
    assert (paired.difference, paired.p_value) == (0.0, 1.0)
    assert paired.low < -0.1
    assert paired.high > 0.1


def test_the_paired_difference_is_known_better_than_of_two_sets_of_images():
    """128 and 123 of 153, of which 120 are the same images."""
    paired = paired_difference(*columns([(1, 1)] * 120 + [(1, 0)] * 8 + [(0, 1)] * 3 + [(0, 0)] * 22))
    widths = [high - low for low, high in (wilson(128, 153), wilson(123, 153))]
    assert paired.high - paired.low < 0.6 * np.hypot(*widths)


def test_how_often_the_interval_holds_the_truth():
    """95 % by its name; of 200 images with a true difference of 0.05 it is between 93 and 98."""
    chance = np.random.default_rng(0)
    cells = np.array([(1, 1), (1, 0), (0, 1), (0, 0)])
    drawn = cells[chance.choice(4, (1000, 200), p=[0.8, 0.09, 0.04, 0.07])]
    intervals = [paired_difference(*sample.T) for sample in drawn]
    assert 0.93 < np.mean([i.low <= 0.05 <= i.high for i in intervals]) < 0.98


def test_shares_are_compared_as_students_paired_samples():
    chance = np.random.default_rng(0)
    first, second = chance.random(30), chance.random(30)
    paired, expected = paired_difference(first, second), ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert (paired.low, paired.high, paired.p_value) == pytest.approx((interval.low, interval.high, expected.pvalue))


def test_one_share_tells_nothing():
    paired = paired_difference(np.array([0.75]), np.array([0.25]))
    assert (paired.difference, paired.low, paired.high, paired.p_value) == (0.5, -1.0, 1.0, 1.0)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (3, 2)])
def test_what_cannot_be_paired_is_refused(first, second):
    with pytest.raises(ValueError, match=f"{first} and {second} scores"):
        paired_difference(np.ones(first), np.ones(second))
