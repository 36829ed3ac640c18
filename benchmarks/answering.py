"""How fast images are answered: `python benchmarks/answering.py FOLDER [--backbone NAME]`.

Three ways take turns on the same files, in fp32, and the medians of their rounds are compared:

loop     a loop as one would write it by hand for speed: threads that decode and resize, the network on small batches
predict  `Classifier.predictions` of Frostline, the code of `frostline predict`
serve    `frostline serve`, asked by 32 clients in a process of their own, each with one connection

A classifier with random weights is as fast as a good one.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import frostline
from frostline.data import image_files
from frostline.machine import find_machine
from frostline.preprocessing import Preprocessing, normalised
from frostline.process import cpu_model, keep_freed_memory, usable_cores

CLIENTS, ROUNDS = 32, 5
BATCH = 4  # the fastest of 4, 8, 16 and 32 on two cores


def a_run(folder: Path, backbone: str) -> frostline.Run:
    """A run of ten classes without training."""
    network = frostline.load_backbone(backbone, "none").network(10)
    return frostline.save_run(network, [f"class {i}" for i in range(10)], folder)


def loop(files: list[Path], network: nn.Module, preprocessing: Preprocessing) -> int:
    """The number of images that a hand-written loop answers."""
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    smooth = filters[preprocessing.interpolation]

    def decode(file: Path) -> np.ndarray:
        with Image.open(file) as image:
            image.draft("RGB", (2 * preprocessing.resize, 2 * preprocessing.resize))
            rgb = image.convert("RGB")
            box = preprocessing.box(*rgb.size)
            return np.asarray(rgb.resize((preprocessing.size, preprocessing.size), smooth, box))

    answered = 0
    with ThreadPoolExecutor(usable_cores()) as pool, torch.inference_mode():
        waiting = [pool.submit(decode, file) for file in files[: 2 * BATCH]]
        for start in range(0, len(files), BATCH):
            pictures = np.stack([each.result() for each in waiting[start : start + BATCH]])
            ahead = files[start + 2 * BATCH : start + 3 * BATCH]
            waiting += [pool.submit(decode, file) for file in ahead]
            images = normalised(torch.from_numpy(pictures).permute(0, 3, 1, 2), preprocessing)
            answered += len(network(images).softmax(1).argmax(1))
    return answered


def predict(files: list[Path], classifier: frostline.Classifier) -> int:
    """The number of images that Frostline answers."""
    return sum(not each.error for each in classifier.predictions(files))


def served(files: list[Path], port: int, seconds: list[float]) -> float:
    """Images per second that a server answers. seconds: gets those of each request."""
    command = [sys.executable, str(Path(__file__).with_name("clients.py")), str(port), str(CLIENTS)]
    names = json.dumps([str(file) for file in files])
    found = json.loads(subprocess.run(command, input=names, capture_output=True, text=True, check=True).stdout)
    seconds += found["requests"]
    return float(len(found["requests"]) / found["seconds"])


def timed(work: Callable[[], int]) -> float:
    """Images per second."""
    started = time.perf_counter()
    answered = work()
    return answered / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--images", type=int, default=800, help="per round")
    given = parser.parse_args()
    keep_freed_memory()  # as the command line of Frostline does
    found = [file for file in image_files(given.folder) if file.suffix.lower() in (".jpg", ".jpeg")]
    files = (found * (given.images // len(found) + 1))[: given.images]
    with tempfile.TemporaryDirectory() as folder:
        run = a_run(Path(folder, "run"), given.backbone)
        classifier = frostline.load(run, machine=find_machine("cpu", "fp32"))
        network = frostline.load(run, machine=find_machine("cpu", "fp32")).model.to(memory_format=torch.channels_last)
        command = [sys.executable, "-m", "frostline", "serve", str(run.path), "--port", "0", "--device", "cpu"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr is not None
            port = int(re.findall(r":(\d+);", server.stderr.readline())[0])
            seconds: list[float] = []
            ways: dict[str, Callable[[], float]] = {
                "loop": lambda: timed(lambda: loop(files, network, classifier.preprocessing)),
                "predict": lambda: timed(lambda: predict(files, classifier)),
                "serve": lambda: served(files, port, seconds),
            }
            for way in ways.values():  # warm: the pages of the files, the engine of `predict`, the server
                way()
            seconds.clear()
            rates: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(ROUNDS):
                for name, way in ways.items():
                    rates[name].append(way())
            server.terminate()
    print(f"{cpu_model()}; {usable_cores()} cores; {given.backbone}; {len(files)} photographs, median of {ROUNDS}")
    plain = statistics.median(rates["loop"])
    for name, each in rates.items():
        rate = statistics.median(each)
        print(f"{name:8} {rate:7.1f} images/s  {rate / plain:5.2f} of the loop")
    print(f"a request of {CLIENTS} clients: median {1000 * statistics.median(seconds):.0f} ms, ", end="")
    print(f"99 of 100 within {1000 * float(np.quantile(seconds, 0.99)):.0f} ms")


if __name__ == "__main__":
    main()
