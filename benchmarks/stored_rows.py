"""What a store of many rows costs: `python benchmarks/stored_rows.py --rows 10000000 --width 64`.

Rows of random float32 are written by the store's own writer to a temporary folder, which is removed at the end. Each
measurement is a process of its own: the index of the names is opened (for the first time, when every byte is checked,
and again), and the sums of a head are taken in one pass, with its files out of the page cache and in it. Beside them
stands how fast the same files are read by plain reads of 4 MB: that is the most that one pass could reach.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SHARD_BYTES = 128_000_000  # as a fit fills them
PIECE = 4_000_000
RUNS = 3


def write(folder: Path, width: int, _: int, rows: int) -> dict[str, float]:
    """Seconds to write all rows."""
    import numpy as np
    import torch

    from frostline.store.shard_file import ShardWriter

    started = time.perf_counter()
    chance, numbers = np.random.default_rng(0), torch.Generator().manual_seed(0)
    size = max(1, SHARD_BYTES // (4 * width))
    for start in range(0, rows, size):
        count = min(size, rows - start)
        writer = ShardWriter(folder, form(width), {}, [])
        writer.add(torch.randn(count, width, generator=numbers) + 3, chance.integers(0, 256, (count, 16), np.uint8))
        writer.close()
    return {"seconds": time.perf_counter() - started}


def form(width: int):
    from frostline.store.shard_file import Form

    return Form("benchmark", (width,), "float32")


def open_index(folder: Path, width: int, *_: int) -> dict[str, float]:
    """Seconds until every row can be found by its name."""
    from frostline.store.shards import open_entry

    before, started = peak_mb(), time.perf_counter()
    index = open_entry(folder, form(width)).index
    return {"seconds": time.perf_counter() - started, "rows": len(index), "before_mb": before}


def solve(folder: Path, width: int, classes: int, _: int) -> dict[str, float]:
    """Seconds of one pass over all rows and of the solution."""
    import numpy as np
    import torch

    import frostline
    from frostline.data.images import Images
    from frostline.data.targets import TableTargets
    from frostline.store.activations import Activations, Filled
    from frostline.store.reading import StoredRows
    from frostline.store.shards import open_entry

    shards = open_entry(folder, form(width)).shards
    count = sum(map(len, shards))
    targets = np.random.default_rng(1).integers(0, classes, count)
    images = Images.__new__(Images)  # ten million names and files are not what is measured
    object.__setattr__(images, "targets", targets)
    object.__setattr__(images, "pictures", range(count))
    fetch = StoredRows(shards, np.arange(count), form(width), None)
    filled = Filled(count, 0, 0.0, count * width * 4, "stored")
    table = TableTargets(torch.from_numpy(targets), 1)
    features = Activations(images, 1, fetch, table, filled, key="benchmark")
    frostline.sums  # noqa: B018  # imported before the clock starts
    before, started, cpu = peak_mb(), time.perf_counter(), time.process_time()
    found = frostline.sums(features, [str(number) for number in range(classes)])
    summed = time.perf_counter()
    found.solve()
    ended = time.perf_counter()
    cpu = time.process_time() - cpu
    return {
        "seconds": ended - started,
        "cpu": cpu,
        "solution": ended - summed,
        "bytes": count * width * 4,
        "before_mb": before,
    }


def read(folder: Path, *_: int) -> dict[str, float]:
    """Seconds to read the same rows and do nothing with them."""
    piece, total, started = bytearray(PIECE), 0, time.perf_counter()
    for file in sorted(folder.glob("*.shard")):
        with file.open("rb", buffering=0) as stream:
            while count := stream.readinto(piece):
                total += count
    return {"seconds": time.perf_counter() - started, "bytes": total}


MEASURES: dict[str, Callable[[Path, int, int, int], dict[str, float]]] = {
    "write": write,
    "open": open_index,
    "solve": solve,
    "read": read,
}


def peak_mb() -> float:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def forget(folder: Path) -> bool:
    """Whether the system could be told to drop the folder's files from memory."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for file in folder.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def measured(name: str, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    words = [sys.executable, __file__, "--measure", name, "--entry", str(folder)]
    words += ["--width", str(options.width), "--classes", str(options.classes), "--rows", str(options.rows)]
    found: dict[str, float] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return found


def best(name: str, options: argparse.Namespace, folder: Path, *, from_disk: bool) -> dict[str, float]:
    """The fastest of three runs: other programs only make it slower."""
    runs = []
    for _ in range(RUNS):
        if from_disk:
            forget(folder)
        runs.append(measured(name, options, folder))
    return min(runs, key=lambda run: run["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--folder", help="where to write; a disk with room for the rows")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--entry", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        found = MEASURES[options.measure](Path(options.entry), options.width, options.classes, options.rows)
        print(json.dumps({**found, "peak_mb": peak_mb()}))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        compare(options, Path(name) / "activations" / "benchmark")


def compare(options: argparse.Namespace, folder: Path) -> None:
    measured("write", options, folder)
    time.sleep(2.1)  # a shard counts as checked once it has been still for two seconds
    for which in ("first, every byte checked", "again, out of the page cache", "again, in the page cache"):
        if which.startswith("again, out") and not forget(folder):
            continue
        found = measured("open", options, folder)
        print(
            f"index, {which}: {found['rows']:,} rows in {found['seconds']:.2f} s, "
            f"memory {found['peak_mb'] - found['before_mb']:.0f} MB above {found['before_mb']:.0f} MB of imports"
        )
    for where in ("disk", "page cache"):
        if where == "disk" and not forget(folder):
            print("this system keeps files in memory: there are no figures of the disk")
            continue
        plain = best("read", options, folder, from_disk=where == "disk")
        found = best("solve", options, folder, from_disk=where == "disk")
        rate, most = (each["bytes"] / each["seconds"] / 1e9 for each in (found, plain))
        print(
            f"head, from the {where}: {rate:.2f} GB/s, plain reads {most:.2f} GB/s, ratio {rate / most:.2f}; "
            f"{found['seconds']:.2f} s, {found['cpu']:.2f} s of processor time, solution {found['solution']:.3f} s; "
            f"memory {found['peak_mb'] - found['before_mb']:.0f} MB above {found['before_mb']:.0f} MB"
        )


if __name__ == "__main__":
    main()
