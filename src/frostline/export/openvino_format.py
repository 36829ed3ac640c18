"""OpenVINO's intermediate representation: model.xml, and the weights in model.bin beside it.

OpenVINO computes float64 in float32, which rounds some pixels of a resize to the next level. So this format takes
pictures of the network's size, which Pillow has cropped and resized.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from frostline.export import onnx_format
from frostline.export.verifying import given
from frostline.export.whole import Answer, Whole

ENDING = ".xml"
NEEDS = ("openvino", *onnx_format.NEEDS)
RESIZES = False  # it computes in float32


def write(program: Whole, about: Mapping[str, str], file: Path) -> None:
    """Write the graph in fp32; `about` is in its runtime information."""
    _save(_model_of(program, file), about, file)


def write_int8(program: Whole, about: Mapping[str, str], images: Iterable[np.ndarray], file: Path) -> int:
    """As in `Quantiser`, with OpenVINO's own tool.

    OpenVINO also reads a graph that ONNX Runtime quantised, but lost 5 points of accuracy with it on 153 photographs.
    """
    with onnx_format.quiet():
        import nncf

        pictures = [given(image, program.preprocessing, resizes=False)[None] for image in images]
        model = _model_of(program, file)
        _save(model, about, file)
        size = sum(each.stat().st_size for each in (file, file.with_suffix(".bin")))
        _save(nncf.quantize(model, nncf.Dataset(pictures), subset_size=len(pictures)), about, file)
    return size


def _model_of(program: Whole, file: Path) -> Any:
    """The classifier as a model of OpenVINO, by way of a file beside the one that is asked for."""
    import openvino

    onnx_file = file.with_suffix(".onnx")
    onnx_format.write(program, {}, onnx_file)
    model = openvino.convert_model(onnx_file)
    onnx_file.unlink()
    return model


def _save(model: Any, about: Mapping[str, str], file: Path) -> None:
    import openvino

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
