"""What a fit takes besides time: start-up, and memory as the number of images grows.

    python benchmarks/footprint.py [COUNT ...]        (default 1000 8000)

Start-up: medians of ten, less a bare interpreter's start. Memory: the highest resident size of the whole process, split
into what it allocated (anonymous) and what is mapped from files (libraries and the store, which the kernel may drop).
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def seconds(*command: str) -> float:
    times = []
    for _ in range(10):
        started = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def write_images(root: Path, count: int) -> Path:
    chance = np.random.default_rng(0)
    for i in range(count):
        folder = root / str(i % 10)
        folder.mkdir(parents=True, exist_ok=True)
        picture = chance.integers(0, 256, (28, 28), np.uint8)
        picture[: 2 * (i % 10) + 2] //= 4
        Image.fromarray(picture).save(folder / f"{i}.png", compress_level=0)
    return root


def peak(data: Path, folder: Path) -> dict[str, float]:
    """Highest memory in MB while `frostline fit` runs, by kind."""
    command = [sys.executable, "-m", "frostline", "fit", str(data), "--plan", "probe", "--image-size", "64"]
    command += ["--out", str(folder / "run"), "--store", str(folder / "cache"), "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    highest = {"VmRSS": 0.0, "RssAnon": 0.0, "RssFile": 0.0}
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            break
        for line in lines:
            name, _, value = line.partition(":")
            if name in highest:
                highest[name] = max(highest[name], int(value.split()[0]) / 1000)
        time.sleep(0.02)
    if process.wait() != 0:
        raise SystemExit("frostline fit failed")
    return highest


def main() -> None:
    bare = seconds("-c", "pass")
    print(f"import frostline        {seconds('-c', 'import frostline') - bare:.3f} s beyond a bare interpreter")
    print(f"frostline --help        {seconds('-m', 'frostline', '--help') - bare:.3f} s")
    print(f"frostline fit --help    {seconds('-m', 'frostline', 'fit', '--help') - bare:.3f} s")
    for count in [int(argument) for argument in sys.argv[1:]] or [1000, 8000]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            data = write_images(folder / "data", count)
            highest = peak(data, folder)
        print(
            f"fit on {count:>6} images: {highest['VmRSS']:.0f} MB resident at most "
            f"({highest['RssAnon']:.0f} MB allocated, {highest['RssFile']:.0f} MB mapped)"
        )


if __name__ == "__main__":
    main()
