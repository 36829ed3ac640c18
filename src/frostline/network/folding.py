"""Faster parts: convolution, BatchNorm and activation in one step.

A BatchNorm with frozen statistics is a factor and an offset, which can be folded into the convolution before it, exact
up to rounding: once if it is frozen completely, at every step if its weights train. And oneDNN computes a simple
activation while it writes the convolution's result, which saves a pass over the memory.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from frostline.network.part import Part, freeze, unfreeze

# By name, so that timm need not be imported. An unknown subclass may compute something else.
CONVOLUTIONS = (
    "torch.nn.modules.conv.Conv2d",
    "timm.layers.conv2d_same.Conv2dSame",
    "frostline.network.same_convolution.SameConv2d",
)
NORMS = ("torch.nn.modules.batchnorm.BatchNorm2d", "timm.layers.norm_act.BatchNormAct2d")


def fold_batchnorm(part: Part) -> Part:
    """A copy of a frozen, traced part with every BatchNorm that follows a convolution folded into its weights.

    Equal to `part` up to rounding, and faster. Shares nothing with the network.
    """

    if not part.graphs:
        return part
    folded = copy.deepcopy(part)
    unfreeze(folded)
    for pair in list(foldable_pairs(folded, part.graphs[False])):
        fold_pair(folded, pair, fuse_conv_bn_eval)
    return freeze(folded).compile_graphs()


def _name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def is_plain(module: nn.Module, known: tuple[str, ...]) -> bool:
    """Whether a module is exactly of a known kind, and has no hooks, which could change its outputs."""
    return _name(module) in known and not module._forward_hooks and not module._forward_pre_hooks


def foldable_pairs(part: Part, graph: fx.Graph) -> Iterator[tuple[str, str]]:
    calls = calls_of(graph)
    for node in graph.nodes:
        source = node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        norm, convolution = part.get_submodule(str(node.target)), part.get_submodule(str(source.target))
        once = len(source.users) == 1 and calls[str(node.target)] == calls[str(source.target)] == 1
        plain = is_plain(convolution, CONVOLUTIONS) and is_plain(norm, NORMS)
        if once and plain and getattr(norm, "running_mean", None) is not None:
            yield str(source.target), str(node.target)


def fold_pair(part: Part, pair: tuple[str, str], folded: Callable[[nn.Conv2d, nn.BatchNorm2d], nn.Module]) -> None:
    """Replace a convolution and the BatchNorm after it by one layer."""
    convolution, norm = part.get_submodule(pair[0]), part.get_submodule(pair[1])
    assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)  # noqa: S101, PT018
    # timm's BatchNormAct2d also applies dropout and an activation
    rest = [m for name in ("drop", "act") if isinstance(m := getattr(norm, name, None), nn.Module)]
    part.set_submodule(pair[0], folded(convolution, norm))
    part.set_submodule(pair[1], nn.Sequential(*rest))


def calls_of(graph: fx.Graph) -> Counter[str]:
    """The number of calls of each layer in a graph."""
    return Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
