"""torch.compile: takes a minute of its own compiler, which large data sets win back."""

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


def build(frozen: Part, machine: Machine, images: int) -> Callable[[np.ndarray], list[Tensor]]:
    """The folded part, its normalisation inside, in the machine's precision."""
    dtype, preprocessing = DTYPES[machine.precision], frozen.preprocessing
    network = to_device(fold_batchnorm(frozen), machine.device, dtype)

    def forward(pictures: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs: Tensor | tuple[Tensor, ...] = network(
            normalised(pictures.permute(0, 3, 1, 2), preprocessing).to(dtype)
        )
        return outputs

    fast = torch.compile(forward, dynamic=False)

    def run(pictures: np.ndarray) -> list[Tensor]:
        with torch.inference_mode():
            outputs = fast(torch.from_numpy(padded(pictures, images)))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            return as_rows(tuple(output[: len(pictures)] for output in outputs), dtype)

    return run
