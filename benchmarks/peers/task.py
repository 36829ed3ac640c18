"""What all peers share: the command line, the network with its weights, and the line that the runner reads.

Nothing of this costs a peer anything: how images are loaded, what is frozen and how it trains is each library's own.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()  # before torch is imported, which is much of what a small job does

import argparse  # noqa: E402
import json  # noqa: E402
from pathlib import Path  # noqa: E402

import timm  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch import nn  # noqa: E402
from torchvision import transforms  # noqa: E402
from torchvision.transforms import InterpolationMode  # noqa: E402

NAMES = {"efficientnet-lite0": "tf_efficientnet_lite0", "resnet18": "resnet18"}  # what timm calls them
HEADS = {"efficientnet-lite0": "classifier", "resnet18": "fc"}
MEAN = {"efficientnet-lite0": (0.5, 0.5, 0.5), "resnet18": (0.485, 0.456, 0.406)}
STD = {"efficientnet-lite0": (0.5, 0.5, 0.5), "resnet18": (0.229, 0.224, 0.225)}
RESIZING = {"efficientnet-lite0": InterpolationMode.BICUBIC, "resnet18": InterpolationMode.BILINEAR}
WORKERS = 2
LEARNING_RATE = 1e-3


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and val/ of class folders")
    parser.add_argument("--arch", choices=NAMES, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--train", choices=["head", "blocks.6", "layer4"], required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=32)
    return parser.parse_args()


def load_network(arch: str, weights: Path, classes: int) -> nn.Module:
    """The network with its weights and a new head."""
    network = timm.create_model(NAMES[arch], num_classes=1000)
    network.load_state_dict(load_file(weights))
    network.reset_classifier(classes)
    return network


def trained_modules(network: nn.Module, arch: str, train: str) -> list[nn.Module]:
    """What is to be trained: the head, or from a stage up to the head."""
    upper = {"head": [], "blocks.6": ["blocks.6", "conv_head", "bn2"], "layer4": ["layer4"]}[train]
    return [network.get_submodule(name) for name in [*upper, HEADS[arch]]]


def geometry(arch: str) -> list[object]:
    """From a picture to the 224 × 224 pixels that the network sees; no augmentation."""
    return [transforms.Resize(256, interpolation=RESIZING[arch]), transforms.CenterCrop(224)]


def view(arch: str) -> transforms.Compose:
    return transforms.Compose([*geometry(arch), transforms.ToTensor(), transforms.Normalize(MEAN[arch], STD[arch])])


class Clock:
    """Seconds of each epoch, validation included, and of what came before the first one."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.start = 0.0
        self._last = 0.0

    def begin(self) -> None:
        self._last = time.perf_counter()
        self.start = self._last - STARTED

    def epoch(self) -> None:
        now = time.perf_counter()
        self.epochs.append(now - self._last)
        self._last = now


def count_trained(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def answer(accuracy: float, clock: Clock, trained: int) -> None:
    """The last line of standard output; the number of trained parameters shows what was really frozen."""
    result = {"accuracy": accuracy, "epoch_seconds": clock.epochs, "start_seconds": clock.start}
    print(json.dumps(result | {"trained_parameters": trained}), flush=True)
