"""How near Frostline comes to what the machine allows, on your own folder of images.

    python benchmarks/limits.py FOLDER [BACKBONE] [STAGE]        (default efficientnet-lite0 blocks.6)

fill      the pass through the frozen part, against 1 / (1/decode + 1/forward) with both measured alone; forward is the
          fastest of all engines in all precisions, whatever Frostline chose, which takes OpenVINO where it is installed
head      epochs of the head alone
stage     an epoch above STAGE on stored activations, against forward, backward and step on tensors in memory
uncached  an epoch of the whole network with nothing stored, against a loop written by hand: torchvision's transforms
          in a DataLoader with two workers, channels last, bf16 where Frostline trains in it

Medians of several rounds in which both sides alternate. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
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
from frostline.engines import eager
from frostline.engines.choice import OTHERS, Engine, fastest, rate
from frostline.engines.eager import Run
from frostline.engines.pipeline import computed
from frostline.machine import find_machine, to_device
from frostline.network.part import Part
from frostline.process import cpu_model, keep_freed_memory
from frostline.store.activations import computed_once

ROUNDS = 5
BATCH_SIZE = 32
LEARNING_RATE = 1e-4
LONG = 1_000_000  # images of a pass that pays for the building of any engine
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


def engines_of(lower: Part) -> Iterator[tuple[str, Engine]]:
    """All that can run a frozen part here: torch as it is, torch fused, OpenVINO; each in both precisions."""
    for precision in ("fp32", "bf16"):
        machine = replace(ON, precision=precision)
        images, parallel = eager.step(lower, machine), machine.device.type == "cpu"
        builds: dict[str, Callable[[], Run]] = {
            "torch": partial(eager.plain, lower, machine),
            "torch, fused": partial(eager.cast, lower, machine),
        }
        for name in OTHERS if parallel else ("graphs",):
            with contextlib.suppress(ImportError):
                module = importlib.import_module(f"frostline.engines.{name}")
                builds[name] = partial(module.build, lower, machine, images)
        for name, build in builds.items():
            yield f"{name} {precision}", Engine(name, build(), parallel, images)


def measure_fill(backbone: Backbone, images: Images) -> None:
    wanted, preprocessing = {i: [0] for i in range(len(images))}, backbone.preprocessing
    lower = backbone.network(2).cut("head")[0]
    sample = next(decoded(images, wanted, PLAIN, preprocessing, ON.workers))[1]
    own = fastest(lower, ON, sample, LONG, None)
    engines = dict(engines_of(lower))
    rates = {name: rate(engine, sample, ON.workers) for name, engine in engines.items()}
    print("frozen    " + ", ".join(f"{name} {images_s:.0f}" for name, images_s in rates.items()) + " images/s")
    first, second, *_ = sorted(rates, key=lambda name: -rates[name])  # a single round may err between these two
    seconds: dict[str, list[float]] = {first: [], second: []}
    works: dict[str, Callable[[], object]] = {
        "decode": lambda: sum(1 for _ in decoded(images, wanted, PLAIN, preprocessing, ON.workers)),
        "pass": lambda: sum(1 for _ in computed(images, wanted, PLAIN, preprocessing, own, ON)),
    }
    for name in (first, second):
        works[name] = lambda name=name: seconds[name].append(
            len(images) / rate(engines[name], sample, ON.workers, rounds=12)
        )
    took = alternating(works)
    name = min(seconds, key=lambda name: statistics.median(seconds[name][1:]))
    limit = [decode + forward for decode, forward in zip(took["decode"], seconds[name][1:], strict=True)]
    a, b, c = (len(images) / statistics.median(t) for t in (took["decode"], seconds[name][1:], took["pass"]))
    compared(
        "fill",
        limit,
        took["pass"],
        f"of the limit: decode {a:.0f}, forward {b:.0f} ({name}), pass {c:.0f} images/s ({own.name} {ON.precision})",
    )


def training_of(backbone: Backbone, data: ImageSet, frostline: str, keep: bool = True) -> Training:
    network = backbone.network(len(data.classes))
    to_device(network.model, ON.device)
    lower, upper = network.cut(frostline)
    train, valid = (computed_once(lower, images, machine=ON, keep=keep) for images in (data.train, data.valid))
    phase = Phase(frostline, epochs=1000, lr=LEARNING_RATE, batch_size=BATCH_SIZE, views=1)
    return Training(network, upper, train, valid, phase, precision=ON.training_precision)


def measure_head(backbone: Backbone, data: ImageSet) -> None:
    training = training_of(backbone, data, "head")
    epochs = iter(training)
    took = alternating({"epoch": lambda: next(epochs)}, rounds=50)["epoch"]
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
            with training.stepper.inside():
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
            with torch.autocast(ON.device.type, torch.bfloat16, enabled=ON.training_precision == "bf16"):
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
    keep_freed_memory()  # as the command line does
    print(f"processor {cpu_model()}, {ON.workers} workers; {ON.precision}, training in {ON.training_precision}")
    backbone, data = load_backbone(args.backbone), read_data(args.folder)
    # First, because it forks: after OpenVINO had used AMX, the end of a forked worker killed the process once.
    measure_uncached(backbone, data)
    measure_fill(backbone, join([data.train, data.valid]))
    measure_head(backbone, data)
    measure_stage(backbone, data, args.stage)


if __name__ == "__main__":
    main()
