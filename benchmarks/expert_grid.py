"""What an expert does by hand: everything trains, a grid of learning rates, the best epoch on validation images.

    python benchmarks/expert_grid.py FOLDER --weights efficientnet-lite0.safetensors --size 128

FOLDER has train/ and val/ (and test/) of class folders. Full fine-tuning with BatchNorm updated, AdamW, warm-up and
cosine, label smoothing, random crops and (where a mirror image means the same) mirroring, 15 epochs with each of three
learning rates. Prints a line per epoch, and one of JSON for each learning rate and for the best of them: accuracy on
validation and test images, and seconds.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision import datasets, transforms
from torchvision.transforms import InterpolationMode

LEARNING_RATES = (1e-3, 3e-4, 1e-4)
EPOCHS, BATCH_SIZE, WARM_UP, SMOOTHING, WEIGHT_DECAY = 15, 32, 0.1, 0.1, 0.01
MEAN = STD = (0.5, 0.5, 0.5)
BICUBIC = InterpolationMode.BICUBIC


def loader(folder: Path, size: int, *, train: bool, mirror: bool) -> torch.utils.data.DataLoader:
    varied = [transforms.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=BICUBIC)]
    varied += [transforms.RandomHorizontalFlip()] if mirror else [transforms.RandomRotation(10)]
    plain = [transforms.Resize(round(size / 0.875), interpolation=BICUBIC), transforms.CenterCrop(size)]
    tail = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    images = datasets.ImageFolder(str(folder), transforms.Compose([*(varied if train else plain), *tail]))
    return torch.utils.data.DataLoader(images, BATCH_SIZE if train else 128, shuffle=train, num_workers=2)


def network(weights: Path, classes: int) -> nn.Module:
    model = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
    model.load_state_dict(load_file(weights))
    model.reset_classifier(classes)
    return model


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.utils.data.DataLoader) -> float:
    model.eval()
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in images)
    return right / len(images.dataset)


def fine_tuned(
    model: nn.Module, train: torch.utils.data.DataLoader, valid: torch.utils.data.DataLoader, lr: float, epochs: int
) -> tuple[float, dict[str, torch.Tensor]]:
    """The best validation accuracy and the weights that have it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=WEIGHT_DECAY)
    steps, loss_of = epochs * len(train), nn.CrossEntropyLoss(label_smoothing=SMOOTHING)

    def factor(step: int) -> float:
        share = (step + 1) / steps
        return share / WARM_UP if share < WARM_UP else 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    best, weights = -1.0, copy.deepcopy(model.state_dict())
    for epoch in range(epochs):
        started = time.perf_counter()
        model.train()
        for x, y in train:
            optimizer.zero_grad()
            loss_of(model(x), y).backward()
            optimizer.step()
            schedule.step()
        found = accuracy(model, valid)
        print(
            f"lr {lr:g} epoch {epoch + 1}/{epochs} valid {found:.4f} · {time.perf_counter() - started:.1f} s",
            flush=True,
        )
        if found > best:
            best, weights = found, copy.deepcopy(model.state_dict())
    return best, weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--lr", type=float, nargs="+", default=LEARNING_RATES, help="the grid")
    parser.add_argument("--no-mirror", action="store_true", help="for what a mirror spoils, as writing")
    args = parser.parse_args()
    started = time.perf_counter()
    train, valid = (
        loader(args.folder / split, args.size, train=split == "train", mirror=not args.no_mirror)
        for split in ("train", "val")
    )
    test = args.folder / "test"
    results = []
    for lr in args.lr:
        torch.manual_seed(0)
        model = network(args.weights, len(train.dataset.classes))
        best, weights = fine_tuned(model, train, valid, lr, args.epochs)
        seconds = round(time.perf_counter() - started, 1)
        model.load_state_dict(weights)
        tested = accuracy(model, loader(test, args.size, train=False, mirror=False)) if test.is_dir() else None
        results.append({"valid": best, "test": tested, "lr": lr, "seconds": seconds, "size": args.size})
        print(json.dumps(results[-1]), flush=True)
    chosen = max(results, key=lambda result: result["valid"])  # the others' test accuracy is for the curious
    print(json.dumps({**chosen, "seconds": seconds}))


if __name__ == "__main__":
    main()
