"""OpenVINO's intermediate representation: model.xml, and the weights in model.bin beside it.

OpenVINO computes float64 in float32, which rounds some pixels of a resize to the next level. So this format takes
pictures of the network's size, which Pillow has cropped and resized.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from frostline.export import onnx_format
from frostline.export.whole import Answer, Whole

ENDING = ".xml"
NEEDS = ("openvino", *onnx_format.NEEDS)
RESIZES = False  # it computes in float32


def write(program: Whole, about: Mapping[str, str], file: Path) -> None:
    """Write the graph in fp32; `about` is in its runtime information."""
    import openvino

    onnx_file = file.with_suffix(".onnx")
    onnx_format.write(program, about, onnx_file)
    model = openvino.convert_model(onnx_file)
    onnx_file.unlink()
    for name, value in about.items():
        model.set_rt_info(value, ["frostline", name])
    openvino.save_model(model, file, compress_to_fp16=False)


def answering(file: Path, program: Whole) -> Answer:  # noqa: ARG001
    """A function from images (N, H, W, 3) of uint8 to probabilities (N, classes)."""
    import openvino

    compiled = openvino.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def answer(images: np.ndarray) -> np.ndarray:
        found: np.ndarray = compiled({onnx_format.INPUT: images})[onnx_format.OUTPUT]
        return found.copy()  # the next call writes into the same memory

    return answer
