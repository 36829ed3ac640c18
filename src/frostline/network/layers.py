"""The layers of a network, in the order in which an image passes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from frostline.network.counting import FLOPS, countable
from frostline.network.network import Network
from frostline.network.tracing import in_mode


@dataclass(frozen=True, eq=False)
class Layer:
    """A module that an image passes; its counts exclude the modules inside it.

    name: its path. kind: its class. output_shape: per image.
    parameters: those that no earlier layer uses.
    macs: multiply-accumulates per image, as `macs_by_position` counts them.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: tuple[nn.Parameter, ...]
    macs: int


def layers_of(network: Network) -> list[Layer]:
    """The layers of a network, measured on a run with a black image.

    A module that contains others is left out unless it computes or trains something itself, as attention does. The
    parameters of a module that is never called belong to the module around it.
    """
    model = network.model
    measured: dict[str, Layer] = {}
    frames: list[list[int]] = []  # per running module: MACs before it, MACs of the modules inside it
    counter = FlopCounterMode(display=False)

    def total() -> int:
        return counter.get_total_flops() // FLOPS

    def before(name: str, module: nn.Module) -> None:
        frames.append([total(), 0])
        measured.setdefault(name, Layer(name, type(module).__name__, (), (), 0))

    def after(name: str, output: Any) -> None:
        start, inside = frames.pop()
        spent = total() - start
        if frames:
            frames[-1][1] += spent
        layer = measured[name]
        measured[name] = replace(layer, output_shape=_shape(output), macs=layer.macs + spent - inside)

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda m, _, name=name: before(name, m)))
        hooks.append(module.register_forward_hook(lambda _, __, output, name=name: after(name, output)))
    like, preprocessing = next(model.parameters()), network.preprocessing
    shape = (1, preprocessing.channels, preprocessing.size, preprocessing.size)
    try:
        with torch.no_grad(), in_mode(model, training=False), countable(), counter:
            model(torch.zeros(shape, device=like.device, dtype=like.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    for name, parameter in model.named_parameters():
        owner = name.rpartition(".")[0]
        while owner not in measured:
            owner = owner.rpartition(".")[0]
        measured[owner] = replace(measured[owner], parameters=(*measured[owner].parameters, parameter))
    return [layer for layer in measured.values() if _is_layer(model, layer)]


def _is_layer(model: nn.Module, layer: Layer) -> bool:
    return bool(layer.parameters or layer.macs or not any(True for _ in model.get_submodule(layer.name).children()))


def _shape(output: Any) -> tuple[int, ...]:
    """The shape per image of the first tensor in a module's output."""
    if isinstance(output, Tensor):
        return tuple(output.shape[1:])
    items = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    return next((shape for item in items if (shape := _shape(item))), ())
