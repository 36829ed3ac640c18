"""Export a classifier to files that run without Frostline. Each format is one module, and an entry of `FORMATS`.

A module has `ENDING`, the extension of its file; `NEEDS`, the packages that it imports; `write(program, about, file)`,
which writes a classifier; and `answering(file)`, which runs the file as its users do: a function from images
(N, H, W, 3) of uint8 to probabilities (N, classes).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np

from frostline.errors import MachineError
from frostline.export.whole import Whole

Format = Literal["onnx", "openvino", "torch"]
FORMATS: tuple[Format, ...] = get_args(Format)
Answer = Callable[[np.ndarray], np.ndarray]


class Exporter(Protocol):
    """What the module of a format gives."""

    ENDING: str
    NEEDS: tuple[str, ...]

    def write(self, program: Whole, about: Mapping[str, str], file: Path) -> None: ...
    def answering(self, file: Path) -> Answer: ...


def exporter_of(name: Format) -> Exporter:
    """The module of a format; raises MachineError if a package that it needs is not installed."""
    module: Exporter = importlib.import_module(f"frostline.export.{name}_format")  # type: ignore[assignment]
    missing = [package for package in module.NEEDS if importlib.util.find_spec(package) is None]
    if missing:
        extra = "openvino" if name == "openvino" else "export"
        raise MachineError(f"format {name} needs {', '.join(missing)}: pip install 'frostline[{extra}]'")
    return module
