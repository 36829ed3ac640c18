"""Convolution and activation in one call of oneDNN, for a frozen part on the processor."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from frostline.network.folding import CONVOLUTIONS, _name, calls_of, is_plain
from frostline.network.part import Part, freeze, unfreeze
from frostline.network.same_convolution import SameConv2d

STEPS = {
    "torch.nn.modules.linear.Identity": "",
    "torch.nn.modules.dropout.Dropout": "",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.ReLU6": "relu6",
}
FUSED = {"": ("none", [], ""), "relu": ("relu", [], ""), "relu6": ("hardtanh", [0.0, 6.0], "")}


def fuse_activations(part: Part) -> Part:
    """A frozen, traced, folded part whose convolutions compute the ReLU behind them; for the CPU, in any precision.

    Takes over the weights of `part`, which is not to be used any more. Equal to it up to rounding.
    """
    if not part.graphs:
        return part
    unfreeze(part)
    graph = copy.deepcopy(part.graphs[False])
    calls = calls_of(graph)
    for node in list(graph.nodes):
        convolution = part.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(convolution, nn.Conv2d) or calls[str(node.target)] > 1 or not _is_fusable(convolution):
            continue
        activation = ""
        for follower in list(_followers(part, node)):
            activation = _activation(part, follower) or activation
            follower.replace_all_uses_with(node)
            graph.erase_node(follower)
        part.set_submodule(str(node.target), FusedConv2d(convolution, activation))
    return freeze(Part(part, part.preprocessing, graphs={False: graph}, frozen=True)).compile_graphs()


class FusedConv2d(nn.Module):
    """A frozen convolution and the ReLU behind it as one call of oneDNN, its weights laid out for that."""

    def __init__(self, convolution: nn.Conv2d, activation: str) -> None:
        super().__init__()
        self.pad = convolution.margins if isinstance(convolution, SameConv2d) else None
        self.padding = [0, 0] if self.pad else [int(p) for p in convolution.padding]
        self.settings = (list(convolution.stride), list(convolution.dilation), convolution.groups)
        self.activation = FUSED[activation]
        weight = convolution.weight.detach()
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(weight, self.padding, *self.settings, None)
        self.bias = None if convolution.bias is None else convolution.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        if self.pad is not None:
            x = functional.pad(x, [*self.pad(x.shape[-1], 1), *self.pad(x.shape[-2], 0)])
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, self.padding, *self.settings, *self.activation
        )
        return fused


def _is_fusable(convolution: nn.Conv2d) -> bool:
    known = is_plain(convolution, (CONVOLUTIONS[0], CONVOLUTIONS[2]))
    return known and convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)


def _followers(part: Part, node: fx.Node) -> Iterator[fx.Node]:
    """What directly follows a convolution and can be a part of it: layers that do nothing, and one activation."""
    found = False
    while len(node.users) == 1 and not found:
        node = next(iter(node.users))
        activation = _activation(part, node)
        if activation is None:
            return
        found = activation != ""
        yield node


def _activation(part: Part, node: fx.Node) -> str | None:
    """The activation that a node is, "" for a layer that does nothing when frozen, None for all else."""
    if node.op == "call_function":
        return "relu" if node.target in (functional.relu, torch.relu) and len(node.all_input_nodes) == 1 else None
    if node.op != "call_module":
        return None
    layers = [m for m in part.get_submodule(str(node.target)).modules() if not isinstance(m, nn.Sequential)]
    names = [STEPS.get(_name(layer)) if not layer._forward_hooks else None for layer in layers]
    if None in names or sum(name != "" for name in names) > 1:
        return None
    return "".join(name for name in names if name)
