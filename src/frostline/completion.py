"""Shell completion of names. Nothing here imports torch, because completion must not take seconds.

Names of backbones and data sets are read from the source files that define them, as text.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from frostline.files import CLASSIFIER
from frostline.plan import PRESETS

HERE = Path(__file__).parent
BUNDLED = HERE / "backbones" / "efficientnet_lite.py", re.compile(r'^    "([\w-]+)": Scale\(', re.MULTILINE)
DATASETS = HERE / "data" / "readers" / "named.py", re.compile(r'^    "([\w-]+)": Known\(', re.MULTILINE)
MODELS = ("torchvision", "timm")  # packages that decorate each model with @register_model
MODEL = re.compile(r"^@register_model\b.*?^def (\w+)\(", re.MULTILINE | re.DOTALL)
RUN = f"model/{CLASSIFIER}"  # a folder with this file is a run


def backbones(begun: str) -> list[str]:
    """Backbones with this beginning: with their source if it is typed, else only names that a single source has."""
    names = _by_source()
    full = [f"{source}:{name}" for source, own in names.items() for name in own]
    if ":" in begun:
        return _beginning(begun, full)
    every = [name for own in names.values() for name in own]
    refused = {name for name in every if name.replace("_", "-") in names["bundled"]} - {*names["bundled"]}
    once = [name for name in every if every.count(name) == 1 and name not in refused]
    return _beginning(begun, ["auto", *(f"{source}:" for source in names), *once])


def datasets(begun: str) -> list[str]:
    """Named data sets with this beginning."""
    return _beginning(begun, _defined(*DATASETS))


def runs(begun: str) -> list[str]:
    """Runs with this beginning, in the typed folder or one folder below; for an empty beginning also those in runs/."""
    folder = Path(begun if begun.endswith(("/", "\\")) else Path(begun).parent)
    found = [file.parent.parent for depth in ("*", "*/*") for file in _glob(folder, f"{depth}/{RUN}")]
    return _beginning(begun, sorted(map(str, found)))


def plans(begun: str) -> list[str]:
    """Named plans with this beginning."""
    return _beginning(begun, list(PRESETS))


def _by_source() -> dict[str, Sequence[str]]:
    return {"bundled": _defined(*BUNDLED), **{package: _models(package) for package in MODELS}}


def _defined(file: Path, pattern: re.Pattern[str]) -> list[str]:
    return pattern.findall(file.read_text(encoding="utf-8"))


@functools.cache
def _models(package: str) -> list[str]:
    """The names in the package's own list of models."""
    found = importlib.util.find_spec(package)
    files = sorted(Path(found.origin).parent.glob("models/*.py")) if found and found.origin else []
    return sorted(name for file in files for name in _defined(file, MODEL))


def _glob(folder: Path, pattern: str) -> Iterator[Path]:
    try:
        yield from folder.glob(pattern)
    except OSError:  # an unreadable folder offers nothing
        return


def _beginning(begun: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if name.startswith(begun)]
