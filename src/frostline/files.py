"""How files are written, and where Frostline keeps them."""

from __future__ import annotations

import contextlib
import os
import secrets
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


NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
MOST_YAML_BYTES = 1_000_000
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def default_folder() -> Path:
    """Where activations are stored: `FROSTLINE_CACHE`, else `user_folder()`."""
    own = os.environ.get("FROSTLINE_CACHE")
    return Path(own) if own else user_folder()


def user_folder() -> Path:
    """`frostline` under `XDG_CACHE_HOME`, else where this system keeps what can be made again, as ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "frostline"
    import platformdirs

    return platformdirs.user_cache_path("frostline", appauthor=False)


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
    """Write a file so that a reader, a crash or a full disk sees the old state or the new one, never half of it.

    Who may read it is decided by the umask, as for any other file. Raises OSError that names the file.
    """
    temporary = file.with_name(f".{file.name[:40]}.{secrets.token_hex(8)}.tmp")
    try:
        with os.fdopen(os.open(temporary, NEW_FILE, 0o666), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:  # what a full disk raises names no file
            raise OSError(error.errno, error.strerror, str(file)) from error
        raise
    _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename last; where folders cannot be opened, as on Windows and some network disks, the system decides."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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
