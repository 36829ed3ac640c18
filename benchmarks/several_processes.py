"""Steps a second of one process and of several on the same cores, or on the GPUs of this machine.

    python benchmarks/several_processes.py [PROCESSES [BACKBONE STAGE]]     (default 2 torchvision:resnet18 layer3)

On the processor, one process has as many threads as there are processes, and each of several has one. On GPUs each
process has one of its own. Rows are random; validation, which they share as well, is left out.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

import numpy as np
import torch

from frostline import Phase, Training, distributed, load_backbone
from frostline.data.images import Images
from frostline.data.targets import TableTargets
from frostline.machine import find_machine, to_device
from frostline.store.activations import Activations, Filled
from frostline.store.reading import HeldRows
from frostline.training.parallel import work

BATCH, STEPS, WARM = 64, 16, 3


def rows_of(count: int, shape: tuple[int, ...]) -> Activations:
    chance = torch.Generator().manual_seed(0)
    targets = torch.arange(count) % 10
    images = Images(np.zeros((count, 1, 1, 3), np.uint8), targets.numpy(), [str(i) for i in range(count)])
    rows = HeldRows(torch.randn(count, *shape, generator=chance).abs())
    return Activations(images, 1, rows, TableTargets(targets, 1), Filled(count, 0, 0.0, 0, "memory"))


def measure(name: str, stage: str) -> None:
    machine = find_machine("auto", "fp32")
    network = load_backbone(name, "none").network(10)
    to_device(network.model, machine.device)
    lower, upper = network.cut(stage)
    train, valid = rows_of(STEPS * BATCH, lower.output_shape), rows_of(8, lower.output_shape)
    phase = Phase(stage, epochs=1, views=1, batch_size=BATCH, batchnorm="frozen")
    times, started = [], time.perf_counter()
    for reached in Training(network, upper, train, valid, phase).steps():
        now = time.perf_counter()
        times += [] if reached else [now - started]
        started = now
    seconds = statistics.median(times[WARM:])
    threads = f"{torch.get_num_threads()} threads" if machine.device.type == "cpu" else torch.cuda.get_device_name()
    print(f"  {distributed.size()} processes, {threads} each: {1 / seconds:6.2f} steps/s of {BATCH} images", flush=True)


def main() -> None:
    launch = distributed.launched()
    count, name, stage = (*sys.argv[1:], *("2", "torchvision:resnet18", "layer3")[len(sys.argv) - 1 :])
    if launch is None and "ALONE" not in os.environ:
        print(f"{name} from {stage}")
        program = [sys.argv[0], count, name, stage]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        for arguments, threads in ((program, count), ([*launcher, *program], "1")):
            environment = {**os.environ, "OMP_NUM_THREADS": threads, "ALONE": "1"}
            subprocess.run([sys.executable, *arguments], env=environment, check=True)
        return
    if launch is not None:
        group = distributed.join(launch.rank, launch.size, local_rank=launch.local_rank)
        if launch.rank:
            sys.exit(work(group))
    measure(name, stage)
    distributed.leave()


if __name__ == "__main__":
    main()
