"""ONNX Runtime, for processors without instructions for bf16: it computes in fp32."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from frostline.engines.eager import DTYPES, Whole, as_rows, padded
from frostline.machine import Machine
from frostline.network.part import Part


def build(frozen: Part, machine: Machine, images: int) -> Callable[[np.ndarray], list[Tensor]]:
    """One session that any thread may call, each call on the thread's own core."""
    size = frozen.preprocessing.size
    example = torch.zeros((images, size, size, 3), dtype=torch.uint8)
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about what is constant here
        torch.onnx.export(Whole(frozen).eval(), (example,), file.name, input_names=["pictures"], dynamo=False)
        content = Path(file.name).read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(pictures: np.ndarray) -> list[Tensor]:
        found = session.run(None, {"pictures": padded(pictures, images)})
        return as_rows(tuple(torch.from_numpy(output[: len(pictures)]) for output in found), DTYPES[machine.precision])

    return run
