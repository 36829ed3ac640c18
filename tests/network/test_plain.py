from __future__ import annotations

import pytest
import torch
from torch import nn

from conftest import SIZE, small_model
from frostline.network.network import Network
from frostline.network.plain import is_compiled, other_types, plain_copy, uncompiled
from frostline.preprocessing import Preprocessing


def compiled(model: nn.Module) -> nn.Module:
    made = torch.compile(model, backend="eager")
    assert isinstance(made, nn.Module)
    return made


def test_the_module_inside_a_compiled_one() -> None:
    model = small_model()
    assert uncompiled(compiled(model)) is uncompiled(model) is model
    assert is_compiled(compiled(model))
    assert not is_compiled(model)


def test_a_copy_has_the_names_and_values_of_a_plain_model_and_shares_nothing() -> None:
    model = small_model()
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    for name, child in list(model.named_children()):
        setattr(model, name, compiled(child))
    copied = plain_copy(compiled(model))
    assert copied.state_dict().keys() == plain.keys()
    assert all(torch.equal(value, plain[name]) for name, value in copied.state_dict().items())
    next(copied.parameters()).data.zero_()
    assert next(model.parameters()).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_copy_is_in_float32_and_the_model_stays_as_it_is(dtype: torch.dtype) -> None:
    model = small_model()
    assert other_types(model) == set()
    model.to(dtype)
    assert other_types(model) == {dtype}
    assert other_types(plain_copy(model)) == set()
    assert other_types(model) == {dtype}


def test_a_network_around_a_compiled_model_is_that_of_the_model() -> None:
    model = small_model().eval()
    plain, network = (Network(each, Preprocessing(size=SIZE)) for each in (model, compiled(model)))
    assert network.model is model
    assert network.stage_names() == plain.stage_names()
    assert network.trace is not None
    assert network.origin.name == type(model).__name__
