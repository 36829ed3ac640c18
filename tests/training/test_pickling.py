"""What is sent to another process arrives as it was."""

from __future__ import annotations

import threading

import pytest
import torch

from frostline.training.pickling import pickled, unpickled


def test_a_value_keeps_what_it_holds_twice():
    layer = torch.nn.Linear(2, 2)
    data = pickled((layer, torch.optim.SGD(layer.parameters(), lr=0.1)))
    again, optimizer = unpickled(None, torch.frombuffer(data, dtype=torch.uint8))
    assert optimizer.param_groups[0]["params"][0] is again.weight


@pytest.mark.parametrize("value", [lambda: None, threading.Lock()], ids=["lambda", "lock"])
def test_a_value_that_cannot_be_sent_is_a_type_error(value):
    with pytest.raises(TypeError, match="pickle"):
        pickled(value)


def test_a_long_graph_can_be_sent():
    deep: list[object] = []
    for _ in range(2_000):  # the usual limit is 1,000 calls
        deep = [deep]
    again = unpickled(None, torch.frombuffer(pickled(deep), dtype=torch.uint8))
    for _ in range(2_000):
        (again,) = again
    assert again == []
