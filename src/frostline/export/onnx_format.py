"""ONNX, for ONNX Runtime, Triton, browsers and phones: one file, with weights and preprocessing inside."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import numpy as np

from frostline.export.torch_format import program_of
from frostline.export.whole import Answer, Whole

ENDING = ".onnx"
NEEDS = ("onnx", "onnxscript", "onnxruntime")
RESIZES = True
INPUT, OUTPUT = "image", "probabilities"


def write(program: Whole, about: Mapping[str, str], file: Path) -> None:
    """Write the graph; `about` becomes its metadata.

    Input `image`, uint8 (N, H, W, 3) of any N, H and W; output `probabilities`, float32 (N, classes).
    """
    import onnx
    import torch

    with _quiet():
        made = torch.onnx.export(
            program_of(program), input_names=[INPUT], output_names=[OUTPUT], dynamo=True, verbose=False
        )
    assert made is not None  # noqa: S101
    model = made.model_proto
    onnx.helper.set_model_props(model, dict(about))
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, file)


def answering(file: Path, program: Whole) -> Answer:  # noqa: ARG001
    """A function from images (N, H, W, 3) of uint8 to probabilities (N, classes)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: cast(np.ndarray, session.run([OUTPUT], {INPUT: images})[0])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own progress lines and its warnings about packages that are not needed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
