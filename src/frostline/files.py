"""How files are written, and where Frostline keeps them."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from frostline.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


def safe_cell(value: object) -> object:
    """A spreadsheet takes =, +, - and @ for a formula: quote text that starts so, as OWASP advises."""
    return "'" + value if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


MOST_YAML_BYTES = 1_000_000
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def default_folder() -> Path:
    """`FROSTLINE_CACHE`, else `frostline` under `XDG_CACHE_HOME` or ~/.cache."""
    own = os.environ.get("FROSTLINE_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "frostline"


def parse_bytes(text: str | int) -> int:
    """A number of bytes from "20 GB", "500MB" or a plain number; raises UsageError."""
    if isinstance(text, int):
        return text
    digits = text.strip().rstrip("kKmMgGtTbB ").strip()
    unit = text.strip()[len(digits) :].strip().lower()
    try:
        size = int(float(digits) * UNITS[unit if unit.endswith("b") or not unit else unit + "b"])
    except (ValueError, KeyError, OverflowError):
        size = -1
    if size < 0:
        raise UsageError(f"{text!r} is no size; write it as in 20GB or 500MB")
    return size


def write_atomically(file: Path, content: bytes) -> None:
    """Write a file so that a reader, a crash or a full disk sees the old state or the new one, never half of it."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{file.name[:40]}.", suffix=".tmp", dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Tensors of any device as a safetensors file, all at once as `write_atomically` writes; tied ones once each."""
    from safetensors.torch import save  # with it torch, which takes seconds; the rest of this file needs neither

    own = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    shared = Counter(value.untyped_storage().data_ptr() for value in own.values())
    own = {n: v.clone() if shared[v.untyped_storage().data_ptr()] > 1 else v for n, v in own.items()}
    write_atomically(file, save(own, dict(metadata or {})))


def read_yaml(file: Path) -> Any:
    """What a YAML file says, in plain values; raises UsageError, also for one too large to be written by hand."""
    try:
        if file.stat().st_size > MOST_YAML_BYTES:
            raise UsageError(f"{file} is larger than {MOST_YAML_BYTES:,} bytes: nobody's settings")
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{file} is no YAML: {error}") from error
