from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from frostline.training import precision
from frostline.training.precision import faster_in_fp32, mixed

CPU = torch.device("cpu")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Flatten(),
        nn.Linear(512, 3),
    )


def test_layers_by_name_stay_in_fp32_and_the_others_do_not():
    model, seen = network(), {}
    for name, layer in model.named_children():
        layer.register_forward_hook(lambda _, given, out, name=name: seen.update({name: (given[0].dtype, out.dtype)}))
    with mixed(model, {"2"}, CPU):
        assert torch.is_autocast_enabled("cpu")
        model(torch.randn(2, 4, 8, 8))
        assert torch.is_autocast_enabled("cpu")
    assert seen["0"][1] == seen["4"][1] == torch.bfloat16
    assert seen["2"][1] == torch.float32
    assert not torch.is_autocast_enabled("cpu")


def test_nothing_is_left_behind():
    model = network()
    with mixed(model, {"2"}, CPU):
        pass
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(RuntimeError), mixed(model, {"2"}, CPU):
        model(torch.randn(2, 4, 8, 9))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not torch.is_autocast_enabled("cpu")


def test_gradients_are_near_those_of_fp32():
    plain, cast = network(), copy.deepcopy(network())
    x, y = torch.randn(16, 4, 8, 8), torch.arange(16) % 3
    nn.functional.cross_entropy(plain(x), y).backward()
    with mixed(cast, {"2"}, CPU):
        logits = cast(x)
    nn.functional.cross_entropy(logits.float(), y).backward()
    for ours, theirs in zip(cast.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert ours.grad.dtype == torch.float32
        assert float((ours.grad - theirs.grad).norm() / theirs.grad.norm()) < 0.05


@pytest.mark.parametrize("slow", [torch.bfloat16, torch.float32])
def test_each_kind_of_grouped_convolution_is_timed_once(slow, monkeypatch):
    model = nn.Sequential(*[nn.Conv2d(8, 8, 3, padding=1, groups=8) for _ in range(3)], nn.Conv2d(8, 4, 1))
    timed = []

    def seconds(layer: nn.Conv2d, shape: torch.Size, dtype: torch.dtype) -> float:
        timed.append((shape, dtype))
        return 2.0 if dtype == slow else 1.0

    monkeypatch.setattr(precision, "_seconds", seconds)
    chosen = faster_in_fp32(model, torch.randn(20, 8, 5, 5))
    assert timed == [((8, 8, 5, 5), torch.bfloat16), ((8, 8, 5, 5), torch.float32)]
    assert chosen == ({"0", "1", "2"} if slow == torch.bfloat16 else set())


def test_timing_changes_nothing():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    faster_in_fp32(model, torch.randn(8, 4, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
