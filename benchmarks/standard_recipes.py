"""The recipes that people follow, as the documentation has them, on the images and weights of `expert_grid.py`.

    python benchmarks/standard_recipes.py FOLDER --weights efficientnet-lite0.safetensors --recipe fastai

fastai: `vision_learner(…).fine_tune(5)` with its default augmentation; in an environment with fastai in it, such as
    `compare_peers.py` makes.
fixed, tuned: the two parts of PyTorch's "Transfer Learning for Computer Vision" tutorial, ten epochs each: the network
    as a fixed feature extractor, and everything fine-tuned; batches of 4, SGD, a tenth of the rate after seven epochs.

FOLDER has train/ and val/ (and test/) of class folders. Prints one line of JSON: accuracy on validation images (of the
best epoch for the tutorial, which keeps it, of the last for fastai, which does not choose) and on test images, seconds.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import nn, optim
from torchvision import datasets, transforms

from expert_grid import BICUBIC, MEAN, STD, accuracy, loader, network

EPOCHS, FINE_TUNE = 10, 5


def tutorial(args: argparse.Namespace, *, fixed: bool) -> tuple[float, float | None]:
    mirrored = [] if args.no_mirror else [transforms.RandomHorizontalFlip()]
    tail = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    varied = [transforms.RandomResizedCrop(args.size, interpolation=BICUBIC), *mirrored, *tail]
    images = datasets.ImageFolder(str(args.folder / "train"), transforms.Compose(varied))
    train = torch.utils.data.DataLoader(images, batch_size=4, shuffle=True, num_workers=2)
    valid = loader(args.folder / "val", args.size, train=False, mirror=False)
    model = network(args.weights, len(images.classes))
    if fixed:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith("classifier")
    optimizer = optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.001, momentum=0.9)
    schedule, loss_of = optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1), nn.CrossEntropyLoss()
    best, weights = -1.0, copy.deepcopy(model.state_dict())
    for _ in range(EPOCHS):
        model.train()
        for x, y in train:
            optimizer.zero_grad()
            loss_of(model(x), y).backward()
            optimizer.step()
        schedule.step()
        found = accuracy(model, valid)
        if found > best:
            best, weights = found, copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    test = args.folder / "test"
    return best, accuracy(model, loader(test, args.size, train=False, mirror=False)) if test.is_dir() else None


def fastai(args: argparse.Namespace) -> tuple[float, float | None]:
    from fastai.vision import all as vision

    sizes = {"item_tfms": vision.Resize(round(args.size * 460 / 224))}  # what fastai's tutorials take for 224
    varied = vision.aug_transforms(size=args.size, do_flip=not args.no_mirror)
    dls = vision.ImageDataLoaders.from_folder(
        args.folder,
        train="train",
        valid="val",
        **sizes,
        batch_tfms=[*varied, vision.Normalize.from_stats(MEAN, STD)],
        num_workers=2,
    )
    learn = vision.vision_learner(
        dls, "tf_efficientnet_lite0", pretrained=False, normalize=False, metrics=vision.accuracy
    )
    weights = {name: value for name, value in load_file(args.weights).items() if not name.startswith("classifier")}
    learn.model[0].model.load_state_dict(weights)
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(FINE_TUNE)
        tested = vision.get_image_files(args.folder / "test") if (args.folder / "test").is_dir() else []
        test = dls.test_dl(tested, with_labels=True) if tested else None  # cropped and scaled as fastai does it
        return float(learn.recorder.values[-1][-1]), float(learn.validate(dl=test)[1]) if test else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--recipe", choices=["fastai", "fixed", "tuned"], required=True)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--no-mirror", action="store_true", help="for what a mirror spoils, as writing")
    args = parser.parse_args()
    torch.manual_seed(0)
    started = time.perf_counter()
    valid, test = fastai(args) if args.recipe == "fastai" else tutorial(args, fixed=args.recipe == "fixed")
    seconds = time.perf_counter() - started
    result = {"recipe": args.recipe, "valid": valid, "test": test, "seconds": round(seconds, 1), "size": args.size}
    print(json.dumps(result | {"timm": timm.__version__}))


if __name__ == "__main__":
    main()
