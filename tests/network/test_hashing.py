from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from frostline.network.hashing import hashed, is_plain_tensor, plain_bytes, shape_bytes, tensor_digest, text_bytes

pieces = st.lists(st.binary(max_size=3), max_size=4)


@given(pieces, pieces)
def test_pieces_do_not_run_into_each_other(one, other):
    assert (hashed(*one) == hashed(*other)) == (one == other)


@given(st.text(), st.text())
def test_texts_are_told_apart_even_with_undecodable_bytes(one, other):
    assert (text_bytes(one) == text_bytes(other)) == (one == other)


def test_plain_values_stand_for_themselves_and_no_others_do():
    values = [None, True, 1, 1.0, 1j, "1", b"1", bytearray(b"1"), ..., torch.float32, torch.strided, float("nan"), -0.0]
    assert len({plain_bytes(value) for value in values}) == len(values)
    assert plain_bytes(torch.device("cpu")) == plain_bytes(torch.device("cuda:1"))
    for value in ([1], (1,), {}, nn.ReLU(), type("Number", (int,), {})(1)):
        assert plain_bytes(value) is None


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64]
)
def test_tensors_are_their_numbers_whatever_their_layout_in_memory(dtype):
    tensor = torch.randn(2, 3, 4, 4).to(dtype)
    assert tensor_digest(tensor) == tensor_digest(tensor.contiguous(memory_format=torch.channels_last))
    assert tensor_digest(tensor) != tensor_digest(tensor.flatten())
    changed = tensor.clone()
    changed[1, 2, 3, 3] = changed[1, 2, 3, 3] == 0
    assert tensor_digest(tensor) != tensor_digest(changed)
    assert shape_bytes(tensor) == shape_bytes(changed)


def test_tensors_that_are_more_than_their_numbers_are_told():
    assert is_plain_tensor(nn.Parameter(torch.ones(2)))
    assert is_plain_tensor(torch.ones(()))
    assert tensor_digest(torch.ones(())) != tensor_digest(torch.ones(1))
    for tensor in (torch.eye(2).to_sparse(), torch.ones(2, device="meta"), nn.UninitializedParameter()):
        assert not is_plain_tensor(tensor)
