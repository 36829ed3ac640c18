"""On an NVIDIA device: all kernels of the frozen part recorded once as a CUDA graph, and replayed for every batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from frostline.engines.eager import DTYPES, as_rows, normalised, padded
from frostline.folding import fold_batchnorm
from frostline.machine import Machine, place
from frostline.part import Part

ROUNDS = 3  # before recording, so that cuDNN has chosen its kernels and the allocator has its memory


def build(frozen: Part, on: Machine, images: int) -> Callable[[np.ndarray], list[Tensor]]:
    """The folded part in the machine's precision; the pictures come by way of pinned memory."""
    dtype, how = DTYPES[on.precision], frozen.preprocessing
    network = place(fold_batchnorm(frozen), on.device, dtype)
    shape = (images, 3, how.size, how.size)
    inputs = torch.zeros(shape, dtype=dtype, device=on.device).contiguous(memory_format=torch.channels_last)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode():
        beside = torch.cuda.Stream(on.device)
        beside.wait_stream(torch.cuda.current_stream(on.device))
        with torch.cuda.stream(beside):
            for _ in range(ROUNDS):
                network(inputs)
        torch.cuda.current_stream(on.device).wait_stream(beside)
        with torch.cuda.graph(graph):
            outputs: Tensor | tuple[Tensor, ...] = network(inputs)
    made = outputs if isinstance(outputs, tuple) else (outputs,)

    def run(pictures: np.ndarray) -> list[Tensor]:
        with torch.inference_mode():
            batch = torch.from_numpy(padded(pictures, images)).pin_memory().to(on.device, non_blocking=True)
            inputs.copy_(normalised(batch.permute(0, 3, 1, 2), how))
            graph.replay()
            return as_rows(tuple(output[: len(pictures)] for output in made), dtype)

    return run
