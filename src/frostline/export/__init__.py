"""Export a classifier to files that run without Frostline. Each format is one module, and a name in `Format`.

A module has `ENDING`, the extension of its file, or "" for a folder; `NEEDS`, the packages that it imports;
`RESIZES`, whether it takes images of any size or pictures of the network's size; `write(program, about, file)`,
which writes a classifier; and `answering(file, program)`, which runs that file as its users do. The formats in `INT8`
also have `write_int8(program, about, images, file)`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from frostline.errors import UsageError, unknown
from frostline.extras import refuse_missing

if TYPE_CHECKING:  # the command line needs the names of the formats, but no torch
    import numpy as np

    from frostline.export.whole import Answer, Whole

Format = Literal["onnx", "openvino", "torch", "safetensors", "pth", "hub"]
FORMATS: tuple[str, ...] = get_args(Format)
INT8: Mapping[str, tuple[str, ...]] = {"onnx": (), "openvino": ("nncf",)}  # the packages that int8 needs besides


class Exporter(Protocol):
    """What the module of a format has."""

    ENDING: str
    NEEDS: tuple[str, ...]
    RESIZES: bool

    def write(self, program: Whole, about: Mapping[str, str], file: Path) -> None:
        """Write a classifier. about: the texts that describe it, by name."""

    def answering(self, file: Path, program: Whole) -> Answer:
        """A function that gives the probabilities of the file. program: for files that hold only weights."""


class Quantiser(Exporter, Protocol):
    """What the module of a format in `INT8` has."""

    def write_int8(self, program: Whole, about: Mapping[str, str], images: Iterable[np.ndarray], file: Path) -> int:
        """Write a classifier in int8 and give the bytes that it has in fp32.

        images: decoded, (H, W, 3) of uint8; the values that they have in the network set the ranges.
        """


def exporter_of(name: str) -> Exporter:
    """The module of a format. Raises UsageError for an unknown one, MachineError if it needs a missing package."""
    exporter: Exporter = _module(name, ())
    return exporter


def quantiser_of(name: str) -> Quantiser:
    """The module of a format that can be in int8. Raises UsageError for another, else as `exporter_of`."""
    if name in FORMATS and name not in INT8:
        raise UsageError(f"format {name} cannot be in int8; use format {' or '.join(INT8)}, or leave out --int8")
    quantiser: Quantiser = _module(name, INT8.get(name, ()))
    return quantiser


def _module(name: str, also: tuple[str, ...]) -> Any:
    """The module of a format. also: packages that it needs besides its own."""
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    module = importlib.import_module(f"frostline.export.{name}_format")
    extras = ["export", *(["openvino"] if name == "openvino" else []), *(["int8"] if also else [])]
    refuse_missing(f"format {name}", (*module.NEEDS, *also), extras)
    return module
