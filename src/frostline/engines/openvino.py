"""OpenVINO: compiles a network for the processor's own vector and matrix instructions."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from frostline.engines.eager import DTYPES, Whole, as_rows, padded
from frostline.machine import Machine
from frostline.network.part import Part
from frostline.process import usable_cores

# OpenVINO's converter reports its use over the network, unless the package for that cannot be imported.
_reporting = sys.modules.get("openvino_telemetry")
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
try:
    import openvino
finally:
    del sys.modules["openvino_telemetry"]
    if _reporting is not None:
        sys.modules["openvino_telemetry"] = _reporting


def build(frozen: Part, machine: Machine, images: int) -> Callable[[np.ndarray], list[Tensor]]:
    """One stream per core, and as many parallel calls as streams."""
    size, channels = frozen.preprocessing.size, frozen.preprocessing.channels
    example = torch.zeros((images, size, size, channels), dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's warnings about values that are constant here
        # check_trace takes longer than everything else, and the numbers are checked anyway
        traced = torch.jit.trace(Whole(frozen).eval(), example, check_trace=False, strict=False)
        model = openvino.convert_model(traced, example_input=example)
    model.reshape([images, size, size, channels])
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if machine.precision == "bf16" else "f32",
        "NUM_STREAMS": machine.workers,
        "INFERENCE_NUM_THREADS": machine.workers,
        # Processes that share a machine would all be bound to its first cores.
        "ENABLE_CPU_PINNING": machine.workers >= usable_cores(),
    }
    compiled = openvino.Core().compile_model(model, "CPU", hints)
    own = threading.local()

    def run(pictures: np.ndarray) -> list[Tensor]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        results = own.request.infer([padded(pictures, images)])
        outputs = tuple(torch.from_numpy(results[output][: len(pictures)]) for output in compiled.outputs)
        return [row.clone() for row in as_rows(outputs, DTYPES[machine.precision])]

    return run
