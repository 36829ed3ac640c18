"""A pass on several machines: `python benchmarks/scale.py FOLDER [--images N] [--backbone NAME] [--workers W]`.

Measures on this machine, with N photographs of a folder (each copy gets a byte more, so that none counts as the same
image): the pass of one process, and the pass of two Ray nodes with one core each, in turns, on the same two cores.
Then it simulates (`simulation.py`) the same two workers, to compare, and W workers with stragglers and lost nodes.
With --costs NAME … it measures instead the rate of a pass with each of these backbones, and multiplies: core hours and
bytes of a million, ten million and a hundred million images.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "tests")]

import frostline  # noqa: E402
from frostline.data import image_files  # noqa: E402
from frostline.process import cpu_model, usable_cores  # noqa: E402
from frostline.store import blocks  # noqa: E402
from frostline.terminal import human_bytes  # noqa: E402
from on_ray import nodes  # noqa: E402
from simulation import World, simulated  # noqa: E402

ROUNDS = 3
START = 15.0  # seconds of a process on a node until it computes: Python, torch, the network
MILLIONS = (1, 10, 100)
HARMS: dict[str, dict[str, float]] = {
    "none lost": {},
    "2 % four times as slow": {"slow": 0.02, "times": 4.0},
    "each node lost every 2 hours": {"losses": 0.5},
    "both": {"slow": 0.02, "times": 4.0, "losses": 0.5},
}


def copies(folder: Path, count: int, target: Path) -> Path:
    """That many photographs of a folder in two classes, each with content of its own."""
    files = sorted(image_files(folder))
    for number, file in zip(range(count), itertools.cycle(files), strict=False):
        place = target / ("even", "odd")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        content = file.read_bytes() + number.to_bytes(4, "little")  # decoders ignore what follows the image
        (place / f"{number:07}{file.suffix}").write_bytes(content)
    return target


@dataclass(frozen=True)
class Measured:
    """A pass. seconds: of the whole; per_image: of a node, for each block; handing: of this process, per block."""

    seconds: float
    per_image: tuple[float, ...] = ()
    handing: float = 0.0


def one_pass(data: Path, backbone: str, on: str = "local") -> Measured:
    """A pass over all images into a new store."""
    receipts: list[tuple[int, float]] = []
    busy: list[float] = []  # processor time of this process at each receipt
    inner = blocks.on_nodes

    def watched(*arguments: Any) -> Iterator[tuple[np.ndarray, blocks.Receipt | None]]:
        for numbers, receipt in inner(*arguments):
            if receipt is not None:
                receipts.append((len(numbers), receipt.seconds))
                busy.append(time.process_time())
            yield numbers, receipt

    blocks.on_nodes = watched
    try:
        with tempfile.TemporaryDirectory() as store:
            started = time.perf_counter()
            frostline.features(data, backbone=backbone, precision="fp32", store=store, on=on, quiet=True)
            seconds = time.perf_counter() - started
    finally:
        blocks.on_nodes = inner
    per_image = tuple(spent / count for count, spent in receipts)
    handing = statistics.median(np.diff(busy).tolist()) if len(busy) > 1 else 0.0
    return Measured(seconds, per_image, handing)


def costs(data: Path, names: list[str], images: int) -> None:
    """Print the rate of each backbone here, and what it makes of many images. Random weights are as fast."""
    print("| backbone | images/s per core | bytes per image | core hours, store of 1 | 10 | 100 million |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in names:
        with tempfile.TemporaryDirectory() as store:
            found = [
                frostline.features(data, backbone=name, weights="none", store=Path(store) / str(n), quiet=True)
                for n in range(ROUNDS)
            ]
        rate = images / statistics.median(each.seconds for each in found) / usable_cores()
        size = found[0].bytes / images
        cells = [f"{n * 1e6 / rate / 3600:,.0f} h, {human_bytes(n * 1e6 * size)}" for n in MILLIONS]
        print(f"| {name} | {rate:.1f} | {size:,.0f} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=4_000)
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--workers", type=int, default=1_000)
    parser.add_argument("--costs", nargs="+", metavar="NAME")
    chosen = parser.parse_args()
    if chosen.costs:
        print(f"{cpu_model()}, {usable_cores()} cores, the precision of a fit here; {chosen.images} photographs")
        with tempfile.TemporaryDirectory() as folder:
            costs(copies(chosen.folder, chosen.images, Path(folder)), chosen.costs, chosen.images)
        return
    print(f"{cpu_model()}; {chosen.backbone}, fp32; {chosen.images} photographs, medians of {ROUNDS} rounds in turns")
    with tempfile.TemporaryDirectory() as folder, nodes(2):
        data = copies(chosen.folder, chosen.images, Path(folder))
        one_pass(copies(chosen.folder, 200, Path(folder) / "warm"), chosen.backbone, "ray")  # processes start
        plain, two = [], []
        for _ in range(ROUNDS):
            plain.append(one_pass(data, chosen.backbone))
            two.append(one_pass(data, chosen.backbone, "ray"))
    alone, together = (statistics.median(each.seconds for each in some) for some in (plain, two))
    ratio = statistics.median(one.seconds / other.seconds for one, other in zip(plain, two, strict=True))
    print(f"one process, two threads  {chosen.images / alone:7.1f} images/s")
    print(f"two nodes of one core     {chosen.images / together:7.1f} images/s   {ratio:.2f} of one process")
    per_image = tuple(sorted(itertools.chain.from_iterable(each.per_image[2:] for each in two)))
    real = World(2, per_image, 0.0, statistics.median(each.handing for each in two))
    expected = simulated(real, chosen.images).seconds
    print(f"the same, simulated       {chosen.images / expected:7.1f} images/s ({together / expected:.2f} of its time)")
    print(f"seconds per image on one core: median {statistics.median(per_image):.4f}, of {len(per_image)} blocks")
    print(f"the handing process: {1e3 * real.handing:.1f} ms per block")
    for millions in MILLIONS:
        for name, harm in HARMS.items():
            world = replace(real, workers=chosen.workers, start=START, **harm)
            found = simulated(world, millions * 1_000_000)
            print(
                f"{millions:4} million on {chosen.workers} workers, {name:<28} {found.seconds / 60:7.1f} min, busy "
                f"{found.busy:.0%}, computed twice {found.twice:.2%}"
            )


if __name__ == "__main__":
    main()
