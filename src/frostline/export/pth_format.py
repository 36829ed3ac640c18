"""Only the weights, as a state dict of `torch.save`, under the names of the network's own source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from frostline.export.safetensors_format import answering_with
from frostline.export.whole import Answer, Whole

ENDING = ".pth"
NEEDS: tuple[str, ...] = ()
RESIZES = True


def write(program: Whole, about: Mapping[str, str], file: Path) -> None:  # noqa: ARG001
    """Write the weights; a plain state dict has no place for `about`."""
    torch.save({name: value.contiguous() for name, value in program.network.state_dict().items()}, file)


def answering(file: Path, program: Whole) -> Answer:
    """As in `Exporter`, with the weights of the file."""
    return answering_with(torch.load(file, weights_only=True), program)
