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
    """A frozen, traced, folded part whose convolutions include the ReLU after them; for the CPU, in any precision.

    It takes over the weights of `part`, which must not be used any more. It equals `part` up to rounding; without
    oneDNN in torch, as on macOS, it is `part` itself.
    """
    if not part.graphs or not is_available():
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


def is_available() -> bool:
    """Whether torch has the oneDNN calls of this module: they are private and may change."""
    calls = ("_reorder_convolution_weight", "_convolution_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, call) for call in calls)


class FusedConv2d(nn.Module):
    """A frozen convolution and the ReLU after it as one oneDNN call, with weights in oneDNN's layout.

    oneDNN pads both sides equally. A convolution that pads one pixel less on the left gets a column of zeros on the
    left of its kernel instead: padding the images would copy all of them, which takes longer than convolving.
    """

    def __init__(self, convolution: nn.Conv2d, activation: str) -> None:
        super().__init__()
        self.settings = (list(convolution.stride), list(convolution.dilation), convolution.groups)
        self.activation = FUSED[activation]
        self.weight = convolution.weight.detach()
        self.bias = None if convolution.bias is None else convolution.bias.detach()
        self.margins = convolution.margins if isinstance(convolution, SameConv2d) else None
        self.padding = [int(p) for p in convolution.padding]
        self.padded: dict[torch.Size, tuple[list[int], Tensor]] = {}  # padding and weights per input size
        if self.margins is None:
            self.weight = self._laid_out(self.weight, self.padding)

    def forward(self, x: Tensor) -> Tensor:
        padding, weight = self.padding, self.weight
        if self.margins is not None:
            padding, weight = self.padded.get(x.shape[-2:]) or self._pad(x.shape[-2:])
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, weight, self.bias, padding, *self.settings, *self.activation
        )
        return fused

    def _pad(self, size: torch.Size) -> tuple[list[int], Tensor]:
        assert self.margins is not None  # noqa: S101
        (top, bottom), (left, right) = self.margins(size[0], 0), self.margins(size[1], 1)
        weight = functional.pad(self.weight, [right - left, 0, bottom - top, 0])
        self.padded[size] = [bottom, right], self._laid_out(weight, [bottom, right])
        return self.padded[size]

    def _laid_out(self, weight: Tensor, padding: list[int]) -> Tensor:
        laid_out: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight, padding, *self.settings, None)
        return laid_out


def _is_fusable(convolution: nn.Conv2d) -> bool:
    known = is_plain(convolution, (CONVOLUTIONS[0], CONVOLUTIONS[2]))
    one_sided = isinstance(convolution, SameConv2d) and convolution.dilation != (1, 1)
    return known and convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str) and not one_sided


def _followers(part: Part, node: fx.Node) -> Iterator[fx.Node]:
    """The nodes after a convolution that can become part of it: layers without effect, and one activation."""
    complete = False
    while len(node.users) == 1 and not complete:
        node = next(iter(node.users))
        activation = _activation(part, node)
        if activation is None:
            return
        complete = activation != ""
        yield node


def _activation(part: Part, node: fx.Node) -> str | None:
    """The activation of a node, "" for a layer without effect when frozen, None for anything else."""
    if node.op == "call_function":
        return "relu" if node.target in (functional.relu, torch.relu) and len(node.all_input_nodes) == 1 else None
    if node.op != "call_module":
        return None
    layers = [m for m in part.get_submodule(str(node.target)).modules() if not isinstance(m, nn.Sequential)]
    names = [STEPS.get(_name(layer)) if not layer._forward_hooks else None for layer in layers]
    if None in names or sum(name != "" for name in names) > 1:
        return None
    return "".join(name for name in names if name)
