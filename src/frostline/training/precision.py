"""Training above the frostline in bf16, except layers that this processor computes faster in fp32.

Parameters, gradients, optimizer and loss stay in fp32; torch's autocast casts the rest. Grouped
convolutions are the exception: depending on kernel and shape, oneDNN's backward pass of depthwise ones is several times
slower in bf16 than in fp32, or faster. So each is timed once, on a few images of its own input.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from frostline.network.part import input_shapes

IMAGES = 8  # that time a layer
ROUNDS = 3
CLEARLY = 1.3  # minimum speed-up of fp32: noise must not decide a tie


@contextlib.contextmanager
def mixed(upper: nn.Module, in_fp32: Collection[str], device: torch.device) -> Iterator[None]:
    """bf16 for the computations of `upper` inside, except the modules of these names."""
    modules = dict(upper.named_modules())
    hooks = [hook for name in in_fp32 for hook in _kept_in_fp32(modules[name], device)]
    try:
        with torch.autocast(device.type, torch.bfloat16):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def faster_in_fp32(upper: nn.Module, x: Tensor) -> frozenset[str]:
    """The grouped convolutions of `upper` that train clearly faster in fp32 here; x: some of its input (B, …)."""
    if x.device.type != "cpu":
        return frozenset()
    grouped = {n: m for n, m in upper.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1}
    shapes = input_shapes(upper, grouped, x[:IMAGES])
    known: dict[object, bool] = {}
    for name, shape in shapes.items():
        layer = grouped[name]
        kind = (shape, layer.weight.shape, layer.stride, layer.dilation, layer.groups)
        if kind not in known:
            known[kind] = _seconds(layer, shape, torch.bfloat16) > CLEARLY * _seconds(layer, shape, torch.float32)
        shapes[name] = shape if known[kind] else torch.Size()
    return frozenset(name for name, shape in shapes.items() if shape)


def _kept_in_fp32(module: nn.Module, device: torch.device) -> list[Any]:
    plain = torch.autocast(device.type, enabled=False)

    def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        plain.__enter__()
        return tuple(value.float() for value in inputs)

    def after(*_: object) -> None:
        plain.__exit__(None, None, None)

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True)]


def _seconds(layer: nn.Conv2d, shape: torch.Size, dtype: torch.dtype) -> float:
    """Seconds of a layer's forward and backward pass, casts included, between neighbours in bf16."""
    x = torch.randn(shape).bfloat16().contiguous(memory_format=torch.channels_last)
    weight = layer.weight.detach().clone().requires_grad_()
    times = []
    for _ in range(ROUNDS + 1):
        inputs = x.clone().requires_grad_()
        started = time.perf_counter()
        out = torch.conv2d(
            inputs.to(dtype),
            weight.to(dtype),
            stride=layer.stride,
            padding=[size // 2 for size in layer.kernel_size],
            dilation=layer.dilation,
            groups=layer.groups,
        ).bfloat16()
        out.backward(out.detach())
        times.append(time.perf_counter() - started)
    return min(times[1:])
