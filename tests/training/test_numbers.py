"""What is no number: found in losses, gradients, outputs and activations, and told with the images it is of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import draw_images, small_backbone
from frostline.errors import DivergedError
from frostline.store.activations import Activations, Filled
from frostline.store.reading import HeldRows
from frostline.tasks import classification
from frostline.training.numbers import (
    loss_and_gradients,
    named,
    refuse_activations,
    refuse_features,
    refuse_outputs,
    without_number,
)
from frostline.training.probe import solve, solve_head

NOT_FINITE = [math.nan, math.inf, -math.inf]


def held(values: torch.Tensor, views: int = 1) -> Activations:
    """Activations with these rows."""
    images = draw_images(len(values) // views)
    targets = torch.from_numpy(images.targets)
    return Activations(
        images, views, HeldRows(values), lambda rows: targets[rows // views], Filled(0, 0, 0.0, values.nbytes, "memory")
    )


@given(st.sampled_from(NOT_FINITE), st.integers(0, 2), st.integers(0, 5))
def test_one_number_in_one_gradient_is_enough(value, tensor, place):
    gradients = [torch.randn(6) for _ in range(3)]
    assert all(map(math.isfinite, loss_and_gradients(torch.ones(()), gradients)))
    gradients[tensor][place] = value
    loss, together = loss_and_gradients(torch.ones(()), gradients)
    assert loss == 1
    assert not math.isfinite(together)


def test_gradients_that_cancel_each_other_out_are_found():
    assert math.isnan(loss_and_gradients(torch.ones(()), [torch.tensor([math.inf, -math.inf])])[1])


def test_without_gradients_there_is_the_loss():
    assert loss_and_gradients(torch.tensor(2.0), []) == (2.0, 0.0)


def test_images_are_named_once_and_at_most_five():
    names = [f"{i}.png" for i in range(9)]
    assert named(names, [3, 3, 1]) == "3.png, 1.png"
    assert named(names, list(range(9))) == "0.png, 1.png, 2.png, 3.png, 4.png and 4 more"


@pytest.mark.parametrize("value", NOT_FINITE)
def test_activations_name_the_images_they_are_of(value):
    values = torch.zeros(12, 4)
    values[5, 2] = values[8, 0] = value
    rows = torch.tensor([4, 5, 8])
    with pytest.raises(DivergedError, match="activations of picture-2, picture-4 are not finite numbers; check the"):
        refuse_activations(held(values, views=2), rows, values[rows])
    with pytest.raises(DivergedError, match="picture-2, picture-4"):
        refuse_features(held(values, views=2))
    refuse_activations(held(values, views=2), rows[:1], values[rows[:1]])


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("row", [3, 30])
def test_a_head_is_not_solved_on_what_is_no_number(value, row):
    """Row 3 is in the sample that shows whether the head is linear, row 30 is not."""
    network = small_backbone().network(classes=3)
    _, upper = network.cut("head")
    values = torch.randn(36, 24)
    values[row, 1] = value
    before = [parameter.clone() for parameter in upper.parameters()]
    with pytest.raises(DivergedError, match=f"activations of picture-{row} are not finite"):
        solve_head(network, upper, held(values))
    assert all(torch.equal(one, other) for one, other in zip(before, upper.parameters(), strict=True))


def test_a_head_of_no_finite_weights_is_refused(monkeypatch):
    monkeypatch.setattr("frostline.training.probe._fit", lambda *_: [torch.full((3, 9), math.nan)])
    monkeypatch.setattr("frostline.training.probe._choose_c", lambda *_: (1.0, torch.zeros(3, 9)))
    with pytest.raises(DivergedError, match="give no head of finite weights"):
        solve(held(torch.randn(36, 8)), 3)


def test_outputs_that_are_no_numbers_are_told_even_where_the_loss_is_one():
    logits = torch.zeros(4, 3)
    logits[2, 1] = math.nan
    outputs = classification.TASK.outputs(logits, torch.from_numpy(np.arange(4) % 3))
    assert without_number(outputs) == [2]
    with pytest.raises(DivergedError, match=r"validation loss of the head is nan \(for c\); check the weights"):
        refuse_outputs(outputs, "abcd", "the head", 0.5)
    logits[2, 1] = 0
    fine = classification.TASK.outputs(logits, torch.from_numpy(np.arange(4) % 3))
    refuse_outputs(fine, "abcd", "the head", 0.5)
    with pytest.raises(DivergedError, match="validation loss of the head is inf; check"):
        refuse_outputs(fine, "abcd", "the head", math.inf)
