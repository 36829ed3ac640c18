"""Activations on disk: shards of rows, found by what they were computed from, verified before they are used.

    <cache>/activations/<key>/entry.json            what this is, for people and for `frostline cache ls`
    <cache>/activations/<key>/<digest>.safetensors  "rows" (n, …) and "names" (n, 16): one name an image view

The key stands for everything that the rows depend on but the image: the frozen part, preprocessing, precision,
decoder. A row's name stands for the image's content and the view. A shard's file name is the digest of its bytes, so
damage of any kind shows. Shards are only ever added, in one rename: any number of processes may share a store.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from frostline.files import write_atomically

DEFAULT_BUDGET = 20_000_000_000
_verified: dict[Path, tuple[int, int]] = {}


@dataclass(frozen=True)
class Cache:
    """A folder that activations may fill up to a budget in bytes."""

    folder: Path
    budget: int = DEFAULT_BUDGET


@dataclass(frozen=True)
class Shard:
    rows: Tensor  # (n, …), mapped read-only from its file
    names: list[bytes]


@dataclass(frozen=True)
class Entry:
    """One store as `frostline cache ls` shows it."""

    folder: Path
    about: dict[str, Any]
    bytes: int
    used: float  # seconds since the epoch


def open_shards(folder: Path) -> tuple[list[Shard], int]:
    """The intact shards of a store, and how many damaged ones were found and removed."""
    files = sorted(folder.glob("*.safetensors"))
    with ThreadPoolExecutor(4) as pool:
        intact = list(pool.map(_verify, files))
    shards = []
    for file, good in zip(files, intact, strict=True):
        if good:
            shards.append(_map(file))
        elif good is False:
            file.unlink(missing_ok=True)
    if files:
        _touch(folder)
    return shards, intact.count(False)


def _map(file: Path) -> Shard:
    with safe_open(file, "pt") as content:
        names: Tensor = content.get_tensor("names")
        return Shard(content.get_tensor("rows"), [row.tobytes() for row in names.numpy()])


def _verify(file: Path) -> bool | None:
    """Whether a shard's bytes are those that its name promises, None if they cannot be read; remembered."""
    try:
        status = file.stat()
        if _verified.get(file) == (status.st_mtime_ns, status.st_size):
            return True
        with file.open("rb") as content:
            digest = hashlib.blake2b(content.read(), digest_size=16).hexdigest()
    except OSError:
        return None
    if digest != file.stem:
        return False
    _verified[file] = (status.st_mtime_ns, status.st_size)
    return True


def write_shard(folder: Path, about: dict[str, Any], rows: Tensor, names: list[bytes]) -> Shard:
    """Add rows to a store, durably and all at once; raises OSError (a full disk, no permission)."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "entry.json").exists():
        write_atomically(folder / "entry.json", json.dumps(about, indent=2).encode())
    labels = torch.frombuffer(bytearray(b"".join(names)), dtype=torch.uint8).view(len(names), 16)
    content = save({"rows": rows.contiguous(), "names": labels})
    file = folder / f"{hashlib.blake2b(content, digest_size=16).hexdigest()}.safetensors"
    write_atomically(file, content)
    status = file.stat()
    _verified[file] = (status.st_mtime_ns, status.st_size)
    return Shard(_map(file).rows, names)


def entries(cache: Path) -> list[Entry]:
    """All stores under a cache folder, the most recently used first."""
    found = []
    for folder in [path for path in cache.glob("activations/*") if path.is_dir()]:
        try:
            about = json.loads((folder / "entry.json").read_text())
        except (OSError, ValueError):
            about = {}
        with contextlib.suppress(OSError):  # another process may remove it meanwhile
            size = sum(shard.stat().st_size for shard in folder.glob("*.safetensors"))
            used = max((file.stat().st_mtime for file in folder.glob("entry.json")), default=folder.stat().st_mtime)
            found.append(Entry(folder, about if isinstance(about, dict) else {}, size, used))
    return sorted(found, key=lambda entry: -entry.used)


def make_room(cache: Cache, needed: int, keep: Collection[Path]) -> bool:
    """Whether `needed` more bytes fit the budget, after removing the stores that were not used for longest."""
    if needed > cache.budget:
        return False
    recent = time.time() - 3600  # what this hour's work uses is left alone
    spared = {entry.folder for entry in entries(cache.folder) if entry.used >= recent}
    _, left = prune(cache.folder, cache.budget - needed, spared.union(keep))
    return left + needed <= cache.budget


def prune(cache: Path, limit: int, keep: Collection[Path] = ()) -> tuple[int, int]:
    """Remove the least recently used stores until `limit` bytes are left at most: how many went, how much is left."""
    there = entries(cache)
    left, removed = sum(entry.bytes for entry in there), 0
    for entry in reversed(there):
        if left <= limit:
            break
        if entry.folder not in keep:
            remove(entry)
            left, removed = left - entry.bytes, removed + 1
    return removed, left


def remove(entry: Entry) -> None:
    shutil.rmtree(entry.folder, ignore_errors=True)


def _touch(folder: Path) -> None:
    try:
        os.utime(folder / "entry.json")
    except OSError:  # a read-only store is still a good store
        return
