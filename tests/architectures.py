"""The networks that the laws are checked on, with the smallest input each takes."""

from __future__ import annotations

import copy
import functools

import pytest
from torch import nn

from frostline.backbones import load_backbone
from frostline.preprocessing import Preprocessing

SIZES = {
    "torchvision:alexnet": 64,
    "torchvision:convnext_tiny": 64,
    "torchvision:densenet121": 64,
    "torchvision:efficientnet_b0": 64,
    "torchvision:googlenet": 64,
    "torchvision:mnasnet0_5": 64,
    "torchvision:mobilenet_v2": 64,
    "torchvision:mobilenet_v3_small": 64,
    "torchvision:regnet_y_400mf": 64,
    "torchvision:resnet18": 64,
    "torchvision:resnet50": 64,
    "torchvision:shufflenet_v2_x0_5": 64,
    "torchvision:squeezenet1_1": 64,
    "torchvision:swin_t": 64,
    "torchvision:vgg16": 32,
    "timm:convnextv2_atto": 64,
    "timm:dm_nfnet_f0": 64,
    "timm:efficientformerv2_s0": 224,
    "timm:eva02_tiny_patch14_224": 224,
    "timm:fastvit_t8": 64,
    "timm:hrnet_w18_small": 64,
    "timm:levit_128s": 224,
    "timm:mobilenetv4_conv_small": 64,
    "timm:regnety_002": 64,
    "timm:resnet50d": 64,
    "timm:swin_tiny_patch4_window7_224": 224,
    "timm:tf_efficientnet_lite0": 64,
    "timm:tiny_vit_5m_224": 64,
    "timm:vit_tiny_patch16_224": 224,
    "timm:xcit_nano_12_p16_224": 224,
}

# Large, slow to build, or like another one of the list.
LARGE = {
    "torchvision:alexnet",
    "torchvision:convnext_tiny",
    "torchvision:densenet121",
    "torchvision:efficientnet_b0",
    "torchvision:googlenet",
    "torchvision:mnasnet0_5",
    "torchvision:mobilenet_v2",
    "torchvision:regnet_y_400mf",
    "torchvision:resnet50",
    "torchvision:swin_t",
    "torchvision:vgg16",
    "timm:dm_nfnet_f0",
    "timm:eva02_tiny_patch14_224",
    "timm:hrnet_w18_small",
    "timm:levit_128s",
    "timm:mobilenetv4_conv_small",
    "timm:regnety_002",
    "timm:resnet50d",
    "timm:swin_tiny_patch4_window7_224",
    "timm:tiny_vit_5m_224",
    "timm:xcit_nano_12_p16_224",
}
# For `parametrize`: all networks; two thirds of them only in `make test-long`.
EVERY = [pytest.param(name, marks=[pytest.mark.long] if name in LARGE else []) for name in SIZES]


@functools.lru_cache(maxsize=1)
def _built(name: str) -> nn.Module:
    return load_backbone(name, "none").model


def built(name: str) -> tuple[nn.Module, Preprocessing]:
    """A network with random weights that the test may change."""
    return copy.deepcopy(_built(name)), Preprocessing(size=SIZES[name], resize=SIZES[name])
