"""What the store costs a second fit: `python benchmarks/second_fit.py [IMAGES]`.

Images are drawn, as arrays of MNIST's size and as small files; their rows are put into a store as if a first fit had
computed them. A process of its own then lists the images, finds out their digests, finds the rows and reads all of
them. Nothing is decoded but the few images that are compared.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

IMAGES = 60_000
CLASSES = 10


def images_of(kind: str, folder: Path, count: int) -> Any:
    import numpy as np

    from frostline.data.images import Images
    from frostline.data.readers.folder import read_folder

    if kind == "files":
        return read_folder(folder / "images", 0).train
    pictures = np.load(folder / "arrays.npy")
    return Images(pictures, np.zeros(count, np.int64), [f"image-{i}" for i in range(count)])


def draw(kind: str, folder: Path, count: int) -> None:
    import numpy as np
    from PIL import Image

    chance = np.random.default_rng(0)
    pictures = chance.integers(0, 256, (count, 28, 28), np.uint8)
    if kind == "arrays":
        np.save(folder / "arrays.npy", pictures)
        return
    for split, part in (("train", pictures), ("val", pictures[:CLASSES])):
        for number in range(CLASSES):
            (folder / "images" / split / str(number)).mkdir(parents=True)
        for i, picture in enumerate(part):
            Image.fromarray(picture).save(folder / "images" / split / str(i % CLASSES) / f"{i:07}.bmp")


def rows_of() -> Any:
    from frostline.backbones import load_backbone
    from frostline.data.views import PLAIN
    from frostline.machine import find_machine
    from frostline.store.rows import Rows

    network = load_backbone("efficientnet-lite0").network(CLASSES)
    return Rows(network.below(network.find("head")), PLAIN, find_machine("cpu"))


def fill(kind: str, folder: Path, count: int) -> None:
    """Rows of ones; those of a few images as they are, so that comparing them finds them right."""
    import numpy as np
    import torch

    from frostline.store import net
    from frostline.store.shard_file import DTYPES, ShardWriter
    from frostline.store.shards import describe

    images, rows = images_of(kind, folder, count), rows_of()
    digests, store = images.digests.all(folder / "store"), folder / "store" / "activations" / rows.key()
    describe(store, rows.about)
    writer = ShardWriter(store, rows.form, {"engine": "benchmark"}, net.sketch(rows.lower))
    for numbers in np.array_split(np.arange(count), max(1, count // 1_000)):
        values = torch.ones(len(numbers), *rows.form.shape, dtype=DTYPES[rows.form.dtype])
        writer.add(values, digests[numbers])
    writer.close()


def measure(kind: str, folder: Path, count: int) -> dict[str, float]:
    """Seconds of each step, and peak memory."""
    import resource

    import torch

    from frostline.store import inventory, net
    from frostline.store.activations import read
    from frostline.store.inventory import take_inventory

    rows = rows_of()
    rows.form  # noqa: B018  # the key is computed where the network is, not here
    original = net._same
    net._same = lambda *given: bool(original(*given)) or True  # compared, and taken as they are
    assert inventory.agrees is net.agrees

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6

    before, times = peak(), [time.perf_counter()]
    images = images_of(kind, folder, count)
    times.append(time.perf_counter())
    found = take_inventory(rows, images, folder / "store")
    times.append(time.perf_counter())
    assert not found.missing
    activations = read(found)
    total = sum(float(x.sum()) for x, _ in activations.batches())
    activations.fetch(torch.arange(8))
    times.append(time.perf_counter())
    assert total == count * 1280
    steps = dict(zip(("list", "find", "read"), (b - a for a, b in itertools.pairwise(times)), strict=True))
    return {**steps, "total": times[-1] - times[0], "before_mb": before, "peak_mb": peak()}


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))
        return
    count = int(sys.argv[1]) if sys.argv[1:] else IMAGES
    for kind in ("arrays", "files"):
        with tempfile.TemporaryDirectory() as name:
            draw(kind, Path(name), count)
            time.sleep(2.5)  # a file that was changed a moment ago is not remembered
            fill(kind, Path(name), count)
            time.sleep(2.5)
            for run in ("first", "again"):
                words = [sys.executable, __file__, "--measure", kind, name, str(count)]
                found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
                steps = ", ".join(f"{step} {found[step]:.2f}" for step in ("list", "find", "read"))
                memory = f"highest memory {found['peak_mb']:.0f} MB, before {found['before_mb']:.0f}"
                print(f"{count:,} {kind}, {run}: {found['total']:.2f} s ({steps}); {memory}")


if __name__ == "__main__":
    main()
