"""A program of `torch.export` (.pt2), for PyTorch in Python and C++."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch.export import Dim, ExportedProgram

from frostline.export.whole import Answer, Whole

ENDING = ".pt2"
NEEDS: tuple[str, ...] = ()
RESIZES = True
MOST = 4_096  # images per call
ABOUT = "frostline.json"  # the file in the archive that names the classes
EXAMPLE = (2, 96, 128, 3)  # the shape that is traced, if sizes are symbols in the graph


def program_of(program: Whole) -> ExportedProgram:
    """The classifier as a graph of PyTorch operations, for any number (height, width) of images."""
    how = program.preprocessing
    shape = EXAMPLE if program.resizes else (2, how.size, how.size, how.channels)
    free = {0: Dim("images", max=MOST), **({1: Dim.DYNAMIC, 2: Dim.DYNAMIC} if program.resizes else {})}
    example = torch.arange(math.prod(shape)).remainder(251).to(torch.uint8).view(shape)
    with torch.no_grad():
        return torch.export.export(program, (example,), dynamic_shapes={"image": free})


def write(program: Whole, about: Mapping[str, str], file: Path) -> None:
    """Write the program; `about` is in the archive as frostline.json."""
    torch.export.save(program_of(program), file, extra_files={ABOUT: json.dumps(dict(about))})


def answering(file: Path, program: Whole) -> Answer:  # noqa: ARG001
    """A function from images (N, H, W, 3) of uint8 to probabilities (N, classes)."""
    module = torch.export.load(file).module()

    def answer(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = module(torch.from_numpy(images)).numpy()
        return found

    return answer
