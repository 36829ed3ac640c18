"""ONNX, for ONNX Runtime, Triton, browsers and phones: one file, with weights and preprocessing inside."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np

from frostline.export.torch_format import program_of
from frostline.export.whole import Answer, Whole

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

ENDING = ".onnx"
NEEDS = ("onnx", "onnxscript", "onnxruntime")
RESIZES = True
INPUT, OUTPUT = "image", "probabilities"
QUANTISED = [  # convolutions and products, and what lies between them
    *("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "Relu", "Clip"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean"),
]
NOISY = ("torch.onnx", "torch.utils.cpp_extension", "nncf")
PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}  # shapes are known and BatchNorms folded


def write(program: Whole, about: Mapping[str, str], file: Path) -> None:
    """Write the graph; `about` becomes its metadata.

    Input `image`, uint8 (N, H, W, 3) of any N, H and W; output `probabilities`, float32 (N, classes).
    """
    import onnx
    import torch

    with quiet():
        made = torch.onnx.export(
            program_of(program), input_names=[INPUT], output_names=[OUTPUT], dynamo=True, verbose=False
        )
    assert made is not None  # noqa: S101
    model = made.model_proto
    onnx.helper.set_model_props(model, dict(about))
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, file)


def write_int8(program: Whole, about: Mapping[str, str], images: Iterable[np.ndarray], file: Path) -> int:
    """As in `Quantiser`: the convolutions and products of the network in int8, the preprocessing as it is."""
    import onnx
    from onnxruntime import quantization

    full, some = file.with_suffix(".fp32.onnx"), iter(images)
    write(program, {**about, **PREPARED}, full)
    size = full.stat().st_size
    with quiet():
        quantization.quantize_static(
            full,
            file,
            SimpleNamespace(get_next=lambda: next(({INPUT: image[None]} for image in some), None)),
            op_types_to_quantize=QUANTISED,
            nodes_to_quantize=_of_network(onnx.load(full).graph),
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
        )
    full.unlink()
    model = onnx.load(file)
    onnx.helper.set_model_props(model, dict(about))
    onnx.save_model(model, file)
    return size


def _of_network(graph: GraphProto) -> list[str]:
    """The names of the nodes that compute with the pixels which the network sees."""
    import onnx

    def makes_pixels(node: NodeProto) -> bool:
        return bool(node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.UINT8)

    reached = {node.output[0] for node in graph.node if makes_pixels(node)} or {INPUT}
    names = []
    for node in graph.node:
        if not reached.isdisjoint(node.input):
            names.append(node.name)
            reached.update(node.output)
    return names


def answering(file: Path, program: Whole) -> Answer:  # noqa: ARG001
    """A function from images (N, H, W, 3) of uint8 to probabilities (N, classes)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: cast(np.ndarray, session.run([OUTPUT], {INPUT: images})[0])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress lines of exporters and quantisers and their warnings about packages that are not needed."""
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
