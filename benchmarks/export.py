"""How fast an exported classifier is: PyTorch, ONNX Runtime and OpenVINO side by side, in fp32 and int8.

    python benchmarks/export.py RUN [ROUNDS]        (a run whose images are at hand; by default 7 rounds)

Writes all files into a temporary folder and prints a table of images per second on all cores of this process: pictures
of the network's size, one by one and eight at once, and decoded photographs at their own size, one by one. The network
of ONNX Runtime resizes photographs itself; for the other two Pillow does. Each figure is the median of the rounds, in
which all runtimes take turns. OpenVINO in int8 needs nncf: without it that row is left out.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

import frostline
from frostline.classifier.artifact import load
from frostline.classifier.classifier import Classifier
from frostline.data.images import ImageSet, spread
from frostline.data.split import some_of_each
from frostline.export import onnx_format, openvino_format
from frostline.export.verifying import decoded, given
from frostline.export.whole import Answer, whole
from frostline.fitting.options import Options
from frostline.machine import find_machine

ROUNDS = 7
IMAGES = 48  # per round; a multiple of BATCH
BATCH = 8
CALIBRATING = 200
COLUMNS = ("pictures, one by one", f"pictures, {BATCH} at once", "photographs, one by one")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimddp", "i8mm")

Work = Callable[[], object]


def processor(cores: int) -> str:
    """The name, the cores in use, and the instructions that matter here, as /proc/cpuinfo has them."""
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    facts = {name.strip(): value.strip() for name, _, value in lines}
    has = {*facts.get("flags", facts.get("Features", "")).split()}
    return f"{facts.get('model name', 'unknown')}, {cores} cores, {', '.join(i for i in INSTRUCTIONS if i in has)}"


def of_torch(classifier: Classifier) -> Answer:
    program = whole(classifier, resizes=False)

    def answer(pictures: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return program(torch.from_numpy(pictures)).numpy()

    return answer


def of_onnx(file: Path, cores: int) -> Answer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {onnx_format.INPUT: images})[0]


def of_openvino(file: Path, cores: int) -> Answer:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": cores}
    compiled = openvino.compile_model(file, "CPU", settings)
    return lambda images: compiled({onnx_format.INPUT: images})[onnx_format.OUTPUT].copy()


def runtimes(
    classifier: Classifier, data: ImageSet, folder: Path, cores: int
) -> Iterator[tuple[str, Answer, Answer | None]]:
    """Name, what answers for pictures, and what answers for photographs; None where Pillow prepares these."""
    yield "PyTorch, fp32", of_torch(classifier), None

    def training() -> Iterator[np.ndarray]:
        return (image for _, image in decoded(data.train, some_of_each(data.train, CALIBRATING)))

    small, full = whole(classifier, resizes=False), whole(classifier)
    onnx_format.write(small, {}, folder / "small.onnx")
    onnx_format.write(full, {}, folder / "full.onnx")
    yield "ONNX Runtime, fp32", of_onnx(folder / "small.onnx", cores), of_onnx(folder / "full.onnx", cores)
    pictures = (given(image, classifier.preprocessing, resizes=False) for image in training())
    onnx_format.write_int8(small, {}, pictures, folder / "small8.onnx")
    onnx_format.write_int8(full, {}, training(), folder / "full8.onnx")
    yield "ONNX Runtime, int8", of_onnx(folder / "small8.onnx", cores), of_onnx(folder / "full8.onnx", cores)
    openvino_format.write(small, {}, folder / "small.xml")
    yield "OpenVINO, fp32", of_openvino(folder / "small.xml", cores), None
    if importlib.util.find_spec("nncf"):
        openvino_format.write_int8(small, {}, training(), folder / "small8.xml")
        yield "OpenVINO, int8", of_openvino(folder / "small8.xml", cores), None


def works(
    answer: Answer, takes_photographs: Answer | None, photographs: list[np.ndarray], classifier: Classifier
) -> list[Work]:
    """What is timed for each column."""
    how = classifier.preprocessing
    pictures = np.stack([given(image, how, resizes=False) for image in photographs])
    batches = np.split(pictures, len(pictures) // BATCH)

    def prepared(image: np.ndarray) -> np.ndarray:
        return answer(given(image, how, resizes=False)[None])

    def itself(image: np.ndarray) -> np.ndarray:
        assert takes_photographs is not None
        return takes_photographs(image[None])

    of_photograph = prepared if takes_photographs is None else itself
    return [
        lambda: [answer(picture[None]) for picture in pictures],
        lambda: [answer(batch) for batch in batches],
        lambda: [of_photograph(image) for image in photographs],
    ]


def seconds(work: Work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measured(run: str, rounds: int, cores: int) -> dict[str, list[float]]:
    """Images per second by runtime, one figure per column."""
    classifier, config = load(run, machine=find_machine("cpu", "fp32")), frostline.load_run(run).config
    data = Options(config["data"], seed=config.get("seed", 0), cache=False).read()
    chosen = [image for _, image in decoded(data.valid, spread(len(data.valid), IMAGES))]
    photographs = (chosen * IMAGES)[:IMAGES]
    with tempfile.TemporaryDirectory() as folder:
        timed = {
            name: works(answer, own, photographs, classifier)
            for name, answer, own in runtimes(classifier, data, Path(folder), cores)
        }
        times: dict[str, list[list[float]]] = {name: [[] for _ in COLUMNS] for name in timed}
        for number in range(rounds + 1):
            for name, columns in timed.items():
                for column, work in enumerate(columns):
                    taken = seconds(work)
                    if number:  # the first round warms up
                        times[name][column].append(taken)
    return {name: [IMAGES / statistics.median(each) for each in columns] for name, columns in times.items()}


def main() -> None:
    run, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    found = measured(run, rounds, cores)
    print(f"{processor(cores)}; images per second, median of {rounds} rounds\n")
    print(f"| | {' | '.join(COLUMNS)} |\n|---|{'---:|' * len(COLUMNS)}")
    for name, figures in found.items():
        print(f"| {name} | {' | '.join(f'{figure:.0f}' for figure in figures)} |")


if __name__ == "__main__":
    main()
