"""Parts made fast: convolution, BatchNorm and activation in one step.

A BatchNorm with frozen statistics is a factor and an offset that the convolution before it can take over, exactly but
for rounding: once where it is frozen altogether, at every step where its weights train. And oneDNN computes a simple
activation while it writes the convolution's result, which spares a pass over the memory.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from frostline.backbones.efficientnet_lite import SameConv2d
from frostline.part import Part, graph_part, input_shapes, thaw, twin

# By name, so that timm need not be imported; a subclass that is not known may compute something else.
CONVOLUTIONS = (
    "torch.nn.modules.conv.Conv2d",
    "timm.layers.conv2d_same.Conv2dSame",
    "frostline.backbones.efficientnet_lite.SameConv2d",
)
STEPS = {
    "torch.nn.modules.linear.Identity": "",
    "torch.nn.modules.dropout.Dropout": "",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.ReLU6": "relu6",
}
FUSED = {"": ("none", [], ""), "relu": ("relu", [], ""), "relu6": ("hardtanh", [0.0, 6.0], "")}
POOLS = ("torch.nn.modules.pooling.AdaptiveAvgPool2d",)
NORMS = ("torch.nn.modules.batchnorm.BatchNorm2d", "timm.layers.norm_act.BatchNormAct2d")


def fold_batchnorm(part: Part) -> Part:
    """A copy of a frozen, traced part with every BatchNorm that follows a convolution folded into its weights.

    Equal to `part` up to rounding, and faster. Shares nothing with the network.
    """

    if not part.graphs:
        return part
    folded = copy.deepcopy(part)
    thaw(folded)
    for pair in list(_foldable(folded, part.graphs[False])):
        _fold(folded, pair, fuse_conv_bn_eval)
    return folded.freeze()


def fold_for_training(part: Part, sample: Tensor, batch_size: int) -> Part:
    """A part that trains the parameters of `part` with fewer passes over the activations; for the CPU.

    Every BatchNorm that follows a convolution is taken over by its weights at each step. The weights are multiplied for
    it, so that is done where they are fewer than the activations. Outputs and gradients are those of `part` up to
    rounding, if `part` keeps the statistics of its BatchNorms.

    sample: some input (B, …). batch_size: images in a step.
    """
    watched = part._forward_hooks or part._forward_pre_hooks or part._backward_hooks
    if not part.graphs or watched or sample.device.type != "cpu":
        return part
    faster = twin(part)
    pairs = set.intersection(*(set(_foldable(part, graph)) for graph in part.graphs.values()))
    shapes = input_shapes(part, [norm for _, norm in pairs], sample)
    for conv, norm in pairs:
        if part.get_parameter(f"{conv}.weight").numel() < batch_size * shapes[norm][1:].numel():
            _fold(faster, (conv, norm), NormedConv2d)
    for path in _called(part.graphs[False]):  # what lies inside a layer is the network's own, not to be exchanged
        module = part.get_submodule(path)
        if _is_plain(module, POOLS) and module.output_size in (1, (1, 1)):
            faster.set_submodule(path, GlobalMean())
    return faster


class NormedConv2d(nn.Module):
    """A convolution and the BatchNorm behind it with frozen statistics, as one convolution; all their weights train."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.convolution, self.norm = convolution, norm

    def forward(self, x: Tensor) -> Tensor:
        convolution, norm = self.convolution, self.norm
        assert norm.running_mean is not None and norm.running_var is not None  # noqa: S101, PT018
        scale, offset = torch.rsqrt(norm.running_var + norm.eps), -norm.running_mean
        if convolution.bias is not None:
            offset = offset + convolution.bias
        if norm.affine:
            scale = scale * norm.weight
        offset = offset * scale
        if norm.affine:
            offset = offset + norm.bias
        # not torch's fuse_conv_bn_weights: it makes new parameters, which no gradient passes
        folded = {"weight": convolution.weight * scale[:, None, None, None], "bias": offset}
        result: Tensor = functional_call(convolution, folded, (x,))
        return result


def fuse_activations(part: Part) -> Part:
    """A frozen, traced, folded part whose convolutions compute the ReLU behind them; for the CPU, in any precision.

    Takes over the weights of `part`, which is not to be used any more. Equal to it up to rounding.
    """
    if not part.graphs:
        return part
    thaw(part)
    graph = copy.deepcopy(part.graphs[False])
    calls = _called(graph)
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
    return graph_part(part, {False: graph}, part.preprocessing).freeze()


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


class GlobalMean(nn.Module):
    """The mean over all positions of a map (B, C, H, W), as (B, C, 1, 1); of any layout in memory, and so its gradient.

    torch gives the gradient of a mean in its own layout, and then every step down to the next convolution goes through
    two layouts at once, which takes ten times as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        mean: Tensor = _Mean.apply(x)
        return mean


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.like = torch.empty_like(x, device="meta")
        return x.mean((2, 3), keepdim=True)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        share = gradient / (ctx.like.shape[2] * ctx.like.shape[3])
        return torch.empty_like(ctx.like, device=gradient.device, dtype=gradient.dtype).copy_(share)


def _is_fusable(convolution: nn.Conv2d) -> bool:
    known = _is_plain(convolution, (CONVOLUTIONS[0], CONVOLUTIONS[2]))
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


def _name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _is_plain(module: nn.Module, known: tuple[str, ...]) -> bool:
    """Exactly of a known kind, and without hooks that compute something else with the same weights."""
    return _name(module) in known and not module._forward_hooks and not module._forward_pre_hooks


def _foldable(part: Part, graph: fx.Graph) -> Iterator[tuple[str, str]]:
    calls = _called(graph)
    for node in graph.nodes:
        source = node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        norm, convolution = part.get_submodule(str(node.target)), part.get_submodule(str(source.target))
        once = len(source.users) == 1 and calls[str(node.target)] == calls[str(source.target)] == 1
        plain = _is_plain(convolution, CONVOLUTIONS) and _is_plain(norm, NORMS)
        if once and plain and getattr(norm, "running_mean", None) is not None:
            yield str(source.target), str(node.target)


def _fold(part: Part, pair: tuple[str, str], folded: Callable[[nn.Conv2d, nn.BatchNorm2d], nn.Module]) -> None:
    """Put one layer in the place of a convolution and the BatchNorm behind it."""
    convolution, norm = part.get_submodule(pair[0]), part.get_submodule(pair[1])
    assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)  # noqa: S101, PT018
    # timm's BatchNormAct2d does more after it has normalised
    rest = [m for name in ("drop", "act") if isinstance(m := getattr(norm, name, None), nn.Module)]
    part.set_submodule(pair[0], folded(convolution, norm))
    part.set_submodule(pair[1], nn.Sequential(*rest))


def _called(graph: fx.Graph) -> Counter[str]:
    """The layers of a graph, and how often each is called."""
    return Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
