"""How near Frostline comes to what the machine allows, on your own folder of images.

    python benchmarks/limits.py FOLDER [BACKBONE] [STAGE]        (default efficientnet-lite0 blocks.6)

fill      the pass through the frozen part, against 1 / (1/decode + 1/forward) with both measured alone
head      epochs of the head alone
stage     an epoch above STAGE on stored activations, against forward, backward and step on tensors in memory
uncached  an epoch of the whole network with nothing stored, against a loop written by hand: torchvision's transforms
          in a DataLoader with two workers, channels last, bf16

Medians of several rounds in which both sides alternate. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from frostline import Phase, Training, load_backbone, read_data
from frostline.backbones import Backbone
from frostline.data.images import Images, ImageSet, join
from frostline.data.pictures import decoded
from frostline.data.views import PLAIN
from frostline.engines.choice import engine_of, rate
from frostline.engines.pipeline import computed
from frostline.machine import find_machine, to_device
from frostline.store import activations

ROUNDS = 5
BATCH_SIZE = 32
LEARNING_RATE = 1e-4
ON = find_machine()


def alternating(works: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """The seconds of each, run in turn, without those of a first round."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - started)
    return {name: values[1:] for name, values in times.items()}


def compared(title: str, ours: list[float], bound: list[float], predicted: str) -> None:
    ratios = [a / b for a, b in zip(ours, bound, strict=True)]
    spread = f"{min(ratios):.2f} … {max(ratios):.2f}"
    print(f"{title:<9} {statistics.median(ratios):.2f} ({spread})  {predicted}", flush=True)


def measure_fill(backbone: Backbone, images: Images) -> None:
    wanted, preprocessing = {i: [0] for i in range(len(images))}, backbone.preprocessing
    engine = engine_of(backbone.network(2).cut("head")[0], ON)
    sample = next(decoded(images, wanted, PLAIN, preprocessing, ON.workers))[1]
    forwards: list[float] = []
    works: dict[str, Callable[[], object]] = {
        "decode": lambda: sum(1 for _ in decoded(images, wanted, PLAIN, preprocessing, ON.workers)),
        "forward": lambda: forwards.append(len(images) / rate(engine, sample, ON.workers, rounds=12)),
        "pass": lambda: sum(1 for _ in computed(images, wanted, PLAIN, preprocessing, engine, ON)),
    }
    took = alternating(works)
    limit = [decode + forward for decode, forward in zip(took["decode"], forwards[1:], strict=True)]
    a, b, c = (len(images) / statistics.median(t) for t in (took["decode"], forwards[1:], took["pass"]))
    compared("fill", limit, took["pass"], f"of the limit: decode {a:.0f}, forward {b:.0f}, pass {c:.0f} images/s")


def training_of(backbone: Backbone, data: ImageSet, frostline: str, keep: bool = True) -> Training:
    network = backbone.network(len(data.classes))
    to_device(network.model, ON.device)
    lower, upper = network.cut(frostline)
    train, valid = (activations(lower, images, machine=ON, keep=keep) for images in (data.train, data.valid))
    phase = Phase(frostline, epochs=1000, lr=LEARNING_RATE, batch_size=BATCH_SIZE, views=1)
    return Training(network, upper, train, valid, phase, precision=ON.precision)


def measure_head(backbone: Backbone, data: ImageSet) -> None:
    training = training_of(backbone, data, "head")
    rows = iter(training)
    took = alternating({"epoch": lambda: next(rows)}, rounds=50)["epoch"]
    print(
        f"head      {1 / statistics.median(took):.0f} epochs a second of {len(data.train)} + {len(data.valid)} images"
    )


def measure_stage(backbone: Backbone, data: ImageSet, stage: str) -> None:
    """Both sides train the same weights in the same precision, and neither evaluates."""
    training = training_of(backbone, data, stage)
    inputs = torch.cat([x for x, _ in training.train.batches()])
    inputs = inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs
    targets = training.train.targets(torch.arange(len(inputs)))

    def bare() -> None:
        for x, y in zip(inputs.split(BATCH_SIZE), targets.split(BATCH_SIZE), strict=True):
            with training.inside():
                logits = training.upper(x)
            step(functional.cross_entropy(logits.float(), y), training.optimizer)

    took = alternating({"ours": training._pass, "bare": bare}, rounds=2 * ROUNDS)
    compared("stage", took["ours"], took["bare"], f"of the bare steps above {stage}, {len(inputs)} images")


def step(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


class Photographs(Dataset[tuple[Tensor, int]]):
    """Image files as tutorials load them."""

    def __init__(self, backbone: Backbone, images: Images) -> None:
        preprocessing = backbone.preprocessing
        smooth = transforms.InterpolationMode(preprocessing.interpolation)
        self.images = images
        self.prepare = transforms.Compose(
            [
                transforms.Resize(preprocessing.resize, interpolation=smooth),
                transforms.CenterCrop(preprocessing.size),
                transforms.ToTensor(),
                transforms.Normalize(preprocessing.mean, preprocessing.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        picture = self.images.pictures[i]
        assert isinstance(picture, Path)
        with Image.open(picture) as image:
            return self.prepare(image.convert("RGB")), int(self.images.targets[i])


def measure_uncached(backbone: Backbone, data: ImageSet) -> None:
    stages = backbone.network(2).stage_names()
    training = training_of(backbone, data, stages[0], keep=False)
    model = backbone.network(len(data.classes)).model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    loader = DataLoader(Photographs(backbone, data.train), BATCH_SIZE, shuffle=True, num_workers=2)

    def by_hand() -> None:
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        for x, y in loader:
            with torch.autocast(ON.device.type, torch.bfloat16, enabled=ON.precision == "bf16"):
                logits = model(x.to(ON.device, memory_format=torch.channels_last))
            step(functional.cross_entropy(logits.float(), y.to(ON.device)), optimizer)

    took = alternating({"ours": training._pass, "by hand": by_hand})
    predicted = (
        f"of a loop written by hand, {len(data.train)} images: {statistics.median(took['by hand']):.1f} s an epoch"
    )
    compared("uncached", took["ours"], took["by hand"], predicted)


def main() -> None:
    parser = argparse.ArgumentParser(description="How near Frostline comes to what the machine allows.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("backbone", nargs="?", default="efficientnet-lite0")
    parser.add_argument("stage", nargs="?", default="blocks.6")
    args = parser.parse_args()
    backbone, data = load_backbone(args.backbone), read_data(args.folder)
    measure_fill(backbone, join([data.train, data.valid]))
    measure_head(backbone, data)
    measure_stage(backbone, data, args.stage)
    measure_uncached(backbone, data)


if __name__ == "__main__":
    main()
