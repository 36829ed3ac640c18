"""On an NVIDIA device: all kernels of the frozen part recorded once as a CUDA graph, and replayed for every batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from frostline.engines.eager import DTYPES, as_rows, padded
from frostline.machine import Machine, to_device
from frostline.network.folding import fold_batchnorm
from frostline.network.part import Part
from frostline.preprocessing import normalised

ROUNDS = 3  # before recording, so that cuDNN has chosen its kernels and the allocator has its memory


def build(frozen: Part, machine: Machine, images: int) -> Callable[[np.ndarray], list[Tensor]]:
    """The folded part in the machine's precision; the pictures come by way of pinned memory."""
    dtype, preprocessing = DTYPES[machine.precision], frozen.preprocessing
    network = to_device(fold_batchnorm(frozen), machine.device, dtype)
    shape = (images, 3, preprocessing.size, preprocessing.size)
    inputs = torch.zeros(shape, dtype=dtype, device=machine.device).contiguous(memory_format=torch.channels_last)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode():
        beside = torch.cuda.Stream(machine.device)
        beside.wait_stream(torch.cuda.current_stream(machine.device))
        with torch.cuda.stream(beside):
            for _ in range(ROUNDS):
                network(inputs)
        torch.cuda.current_stream(machine.device).wait_stream(beside)
        with torch.cuda.graph(graph):
            outputs: Tensor | tuple[Tensor, ...] = network(inputs)
    recorded = outputs if isinstance(outputs, tuple) else (outputs,)

    def run(pictures: np.ndarray) -> list[Tensor]:
        with torch.inference_mode():
            batch = torch.from_numpy(padded(pictures, images)).pin_memory().to(machine.device, non_blocking=True)
            inputs.copy_(normalised(batch.permute(0, 3, 1, 2), preprocessing))
            graph.replay()
            return as_rows(tuple(output[: len(pictures)] for output in recorded), dtype)

    return run
