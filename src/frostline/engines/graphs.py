"""CUDA graphs for NVIDIA devices: the frozen part's kernels are recorded once and replayed for every batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from frostline.engines.eager import DTYPES, as_rows, padded
from frostline.machine import Machine, exact, to_device
from frostline.network.folding import fold_batchnorm
from frostline.network.part import Part
from frostline.preprocessing import Preprocessing, normalised

ROUNDS = 3  # before recording, so that cuDNN has chosen its kernels and the allocator has its memory


@dataclass(frozen=True, eq=False)
class Recording:
    """A recorded graph: (B, size, size, 3) of uint8, at most the recorded number -> the rows of each output.

    network: kept because the graph reads its weights at their recorded addresses; if it were freed, other tensors
        would take their place, and the graph would compute with those.
    inputs, outputs: where the graph reads and writes.
    """

    graph: torch.cuda.CUDAGraph
    network: nn.Module
    preprocessing: Preprocessing
    inputs: Tensor
    outputs: tuple[Tensor, ...]

    def __call__(self, pictures: np.ndarray) -> list[Tensor]:
        device, dtype = self.inputs.device, self.inputs.dtype
        with torch.inference_mode():
            batch = torch.from_numpy(padded(pictures, len(self.inputs))).pin_memory().to(device, non_blocking=True)
            self.inputs.copy_(normalised(batch.permute(0, 3, 1, 2), self.preprocessing))
            self.graph.replay()
            return as_rows(tuple(output[: len(pictures)] for output in self.outputs), dtype)


def build(frozen: Part, machine: Machine, images: int) -> Recording:
    """The folded part in the machine's precision, for at most `images` pictures, which arrive through pinned memory."""
    preprocessing = frozen.preprocessing
    network = to_device(fold_batchnorm(frozen), machine.device, DTYPES[machine.precision])
    shape = (images, preprocessing.channels, preprocessing.size, preprocessing.size)
    inputs = torch.zeros(shape, dtype=DTYPES[machine.precision], device=machine.device)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), exact(machine.device):
        beside = torch.cuda.Stream(machine.device)
        beside.wait_stream(torch.cuda.current_stream(machine.device))
        with torch.cuda.stream(beside):
            for _ in range(ROUNDS):
                network(inputs)
        torch.cuda.current_stream(machine.device).wait_stream(beside)
        with torch.cuda.graph(graph):
            outputs: Tensor | tuple[Tensor, ...] = network(inputs)
    recorded = outputs if isinstance(outputs, tuple) else (outputs,)
    return Recording(graph, network, preprocessing, inputs, recorded)
