"""Convolution and BatchNorm as one convolution while both train."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from frostline.network.folding import calls_of, fold_pair, foldable_pairs, is_plain
from frostline.network.part import Part, input_shapes, twin

POOLS = ("torch.nn.modules.pooling.AdaptiveAvgPool2d",)


def fold_for_training(part: Part, sample: Tensor, batch_size: int) -> Part:
    """A part that trains the parameters of `part` with fewer passes over the activations; for the CPU.

    At each step, a BatchNorm behind a convolution is folded into the convolution's weights. This scales the weights, so
    it is done only where they are fewer than the activations. Outputs and gradients equal those of `part` up to
    rounding, if `part` keeps its BatchNorm statistics frozen.

    sample: some input (B, …). batch_size: images per step.
    """
    watched = part._forward_hooks or part._forward_pre_hooks or part._backward_hooks
    if not part.graphs or watched or sample.device.type != "cpu":
        return part
    faster = twin(part)
    pairs = set.intersection(*(set(foldable_pairs(part, graph)) for graph in part.graphs.values()))
    shapes = input_shapes(part, [norm for _, norm in pairs], sample)
    for conv, norm in pairs:
        if part.get_parameter(f"{conv}.weight").numel() < batch_size * shapes[norm][1:].numel():
            fold_pair(faster, (conv, norm), NormedConv2d)
    for path in calls_of(part.graphs[False]):  # modules inside a layer belong to the network and are not replaced
        module = part.get_submodule(path)
        if is_plain(module, POOLS) and module.output_size in (1, (1, 1)):
            faster.set_submodule(path, GlobalMean())
    return faster


class NormedConv2d(nn.Module):
    """A convolution and the BatchNorm behind it, with frozen statistics, as one convolution; all weights train."""

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
        # not torch's fuse_conv_bn_weights: it creates new parameters, which stop gradients
        folded = {"weight": convolution.weight * scale[:, None, None, None], "bias": offset}
        result: Tensor = functional_call(convolution, folded, (x,))
        return result


class GlobalMean(nn.Module):
    """The mean over all positions of a map (B, C, H, W), as (B, C, 1, 1); its gradient keeps the map's memory layout.

    torch gives the gradient of a mean in its own layout. Then every step down to the next convolution mixes
    two layouts, which takes ten times as long.
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
