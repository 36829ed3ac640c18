"""When numbers count as those of the part itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frostline.engines.checking import TOLERANCES, difference, fault

RIGHT = [torch.tensor([[3.0, 4.0]]), torch.ones(2, 2)]


@given(st.floats(0, 10, width=32))
def test_the_difference_is_relative_to_the_norm(factor):
    assert difference([row * (1 + factor) for row in RIGHT], RIGHT) == pytest.approx(factor, abs=1e-5)
    assert difference([row * 1000 * (1 + factor) for row in RIGHT], [row * 1000 for row in RIGHT]) == pytest.approx(
        factor, abs=1e-5
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_infinitely_far(value):
    assert difference([RIGHT[0], RIGHT[1] * value], RIGHT) == float("inf")


def test_a_part_without_outputs_has_nothing_wrong():
    assert difference([], []) == 0


def test_another_number_of_outputs_is_an_error():
    with pytest.raises(ValueError, match="argument"):
        difference(RIGHT[:1], RIGHT)


@pytest.mark.parametrize("precision", TOLERANCES)
def test_numbers_within_the_tolerance_are_good(precision):
    def never() -> list[torch.Tensor]:
        raise AssertionError("not needed")

    near, far = (1 + 0.9 * TOLERANCES[precision]), (1 + 2 * TOLERANCES[precision])
    assert fault([row * near for row in RIGHT], RIGHT, never, precision) is None
    assert "differ" in str(fault([row * far for row in RIGHT], RIGHT, lambda: RIGHT, precision))
    assert fault([row * far for row in RIGHT], RIGHT, lambda: [row * far for row in RIGHT], precision) is None
