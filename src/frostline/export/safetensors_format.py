"""Only the weights, as safetensors, under the names of the network's own source."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from frostline.export.whole import Answer, Whole
from frostline.files import write_tensors

ENDING = ".safetensors"
NEEDS: tuple[str, ...] = ()
RESIZES = True


def write(program: Whole, about: Mapping[str, str], file: Path) -> None:
    """Write the weights; `about` becomes the metadata of the file."""
    write_tensors(file, program.network.state_dict(), dict(about))


def answering(file: Path, program: Whole) -> Answer:
    """As in `Exporter`, with the weights of the file."""
    return answering_with(load_file(file), program)


def answering_with(state: Mapping[str, Tensor], program: Whole) -> Answer:
    """The answers of a program with other weights, which must be complete."""
    loaded = copy.deepcopy(program)
    for value in loaded.network.state_dict().values():
        value.zero_()  # so that nothing but the weights of the file can give the right answers
    loaded.network.load_state_dict(state)

    def answer(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = loaded(torch.from_numpy(images)).numpy()
        return found

    return answer
