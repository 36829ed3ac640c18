"""Writes the weights that all peers start from; runs in Frostline's environment.

    python benchmarks/weights.py FOLDER

ImageNet weights of EfficientNet-Lite0 under timm's names, and a ResNet-18 with random weights under torchvision's,
which are timm's as well.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torchvision
from safetensors.torch import save_file

from frostline.backbones import load_backbone


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    models = {
        "efficientnet-lite0": load_backbone("efficientnet-lite0", "pretrained").model,
        "resnet18": torchvision.models.resnet18(),
    }
    for name, model in models.items():
        state = {key: value.contiguous() for key, value in model.state_dict().items()}
        save_file(state, folder / f"{name}.safetensors")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
