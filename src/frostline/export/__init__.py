"""Export a classifier to files that run without Frostline. Each format is one module, and a name in `Format`.

A module has `ENDING`, the extension of its file; `NEEDS`, the packages that it imports; `RESIZES`, whether
it takes images of any size or pictures of the network's size; `write(program, about, file)`,
which writes a classifier; and `answering(file, program)`, which runs that file as its users do.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from frostline.errors import MachineError, unknown

if TYPE_CHECKING:  # the command line needs the names of the formats, but no torch
    from frostline.export.whole import Answer, Whole

Format = Literal["onnx", "openvino", "torch", "safetensors", "pth"]
FORMATS: tuple[str, ...] = get_args(Format)


class Exporter(Protocol):
    """What the module of a format has."""

    ENDING: str
    NEEDS: tuple[str, ...]
    RESIZES: bool

    def write(self, program: Whole, about: Mapping[str, str], file: Path) -> None:
        """Write a classifier. about: the texts that describe it, by name."""

    def answering(self, file: Path, program: Whole) -> Answer:
        """A function that gives the probabilities of the file. program: for files that hold only weights."""


def exporter_of(name: str) -> Exporter:
    """The module of a format. Raises UsageError for an unknown one, MachineError if it needs a missing package."""
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    module: Exporter = importlib.import_module(f"frostline.export.{name}_format")
    missing = [package for package in module.NEEDS if importlib.util.find_spec(package) is None]
    if missing:
        extras = "export,openvino" if name == "openvino" else "export"
        raise MachineError(f"format {name} needs {', '.join(missing)}: pip install 'frostline[{extras}]'")
    return module
