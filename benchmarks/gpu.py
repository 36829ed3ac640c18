"""What an accelerator makes of it: the pass through the frozen part, and epochs on what is stored.

    python benchmarks/gpu.py [BACKBONE ...]        (default efficientnet-lite0 torchvision:resnet50)

Prints for each backbone: images a second through the frozen part of the network as torch runs it in fp32, as Frostline
runs it, the whole pass with decoding, and epochs a second of the head and of the last stage on stored activations. With
several devices also steps a second on one and on all of them.
Without a CUDA device it says so and does nothing.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from frostline import Phase, Training, load_backbone
from frostline.data.images import Images
from frostline.engines.choice import engine_of, rate
from frostline.engines.eager import plain
from frostline.machine import find_machine, to_device
from frostline.store.activations import computed_once

COUNT = 4_000
ROUNDS = 5


def seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def pictures(count: int) -> Images:
    chance = np.random.default_rng(0)
    drawn = chance.integers(0, 256, (count, 256, 256, 3), np.uint8)
    return Images(drawn, np.arange(count) % 10, [str(i) for i in range(count)])


def measure(name: str) -> None:
    machine, images = find_machine("cuda"), pictures(COUNT)
    backbone = load_backbone(name, "none")
    network = backbone.network(10)
    to_device(network.model, machine.device)
    stage = network.stage_names()[-3]
    lower, _ = network.cut("head")
    engine = engine_of(lower, machine)
    size = backbone.preprocessing.size
    batch = np.zeros((engine.images, size, size, 3), np.uint8)
    fp32 = plain(lower, find_machine("cuda", "fp32"))
    print(f"{name} on {torch.cuda.get_device_name()}")
    print(f"  frozen part, fp32            {engine.images / seconds(lambda: fp32(batch)):8.0f} images/s")
    print(f"  frozen part, as stored       {rate(engine, batch, 1):8.0f} images/s")
    started = time.perf_counter()
    computed_once(lower, images, machine=machine)
    print(f"  the whole pass, with images  {COUNT / (time.perf_counter() - started):8.0f} images/s")
    for frostline in ("head", stage):
        lower, upper = network.cut(frostline)
        train = computed_once(lower, images, machine=machine)
        phase = Phase(frostline, epochs=ROUNDS + 2, views=1, batch_size=128, patience=100)
        epochs = iter(Training(network, upper, train, train, phase, precision=machine.training_precision))
        next(epochs)
        print(f"  epochs above {frostline:<15} {1 / seconds(lambda epochs=epochs: next(epochs)):8.2f} a second")


def main() -> None:
    if not torch.cuda.is_available():
        print("skipped: no CUDA device here")
        return
    names = sys.argv[1:] or ["efficientnet-lite0", "torchvision:resnet50"]
    for name in names:
        measure(name)
    if (count := torch.cuda.device_count()) == 1:
        print("skipped: several devices, because there is one")
        return
    for name in names:
        stage = load_backbone(name, "none").network(10).stage_names()[-3]
        program = Path(__file__).with_name("processes.py")
        subprocess.run([sys.executable, program, str(count), name, stage], check=True)


if __name__ == "__main__":
    main()
