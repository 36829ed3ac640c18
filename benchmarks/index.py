"""How long an index of stored rows takes to open, in which memory: `python benchmarks/index.py [ROWS]`.

Shards of that many rows of one number are written to a temporary folder, then a process of its own opens them, checks
each name block as a first fit does, builds the index and looks a hundred thousand names up.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS = 10_000_000
SHARD = 50_000  # as many as fit into 128 MB where a row has 1,280 numbers of bf16
LOOKED_UP = 100_000


def write(folder: Path, rows: int) -> None:
    import numpy as np
    import torch

    from frostline.store.shard_file import Form, ShardWriter

    chance = np.random.default_rng(0)
    for start in range(0, rows, SHARD):
        count = min(SHARD, rows - start)
        writer = ShardWriter(folder, Form("benchmark", (1,), "uint8"), {}, [])
        writer.add(torch.zeros(count, 1, dtype=torch.uint8), chance.integers(0, 256, (count, 16), np.uint8))
        writer.close()


def measure(folder: Path) -> dict[str, float]:
    """Seconds and peak memory of this process."""
    import resource

    import numpy as np

    from frostline.store.shard_file import Form
    from frostline.store.shards import open_entry

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6

    before, started = peak(), time.perf_counter()
    entry = open_entry(folder, Form("benchmark", (1,), "uint8"))
    index = entry.index
    opened = time.perf_counter()
    names = np.concatenate([index.names[: LOOKED_UP // 2].view(np.uint8), np.zeros((LOOKED_UP // 2, 16), np.uint8)])
    found = index.find(names)
    ended = time.perf_counter()
    assert (found >= 0).sum() == LOOKED_UP // 2
    return {
        "rows": len(index),
        "shards": len(entry.shards),
        "open_seconds": opened - started,
        "look_up_seconds": ended - opened,
        "imports_mb": before,
        "peak_mb": peak(),
    }


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]))))
        return
    rows = int(sys.argv[1]) if sys.argv[1:] else ROWS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "activations" / "benchmark"
        write(folder, rows)
        for run in ("first", "again"):  # the first one reads every byte
            time.sleep(2.1)
            words = [sys.executable, __file__, "--measure", str(folder)]
            found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
            print(
                f"{run:>6}: {found['rows']:,} rows in {found['shards']} shards open in {found['open_seconds']:.2f} s, "
                f"{LOOKED_UP:,} names are looked up in {found['look_up_seconds']:.2f} s; "
                f"highest memory {found['peak_mb']:.0f} MB, imports alone {found['imports_mb']:.0f} MB"
            )


if __name__ == "__main__":
    main()
