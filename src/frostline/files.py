"""Writing files safely, and the folders that Frostline uses.

Every file is written under a temporary name in its own folder, flushed to disk and renamed; then the folder is flushed.
So a crash, a full disk or a power cut leaves the old file or the new one. The operations on the disk are `os.open`,
`os.write`, `os.fsync` and `os.replace` of this module: tests let each of them fail. Only logs, which grow line by
line, and the locks of the store are written elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from frostline.errors import MachineError, UsageError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from torch import Tensor

CLASSIFIER = "model.json"  # what the folder of every classifier has


TEMPORARY = ".tmp"
GROWING = 3600  # seconds without a change after which a temporary file counts as left, where files cannot be locked
BUFFER = 1 << 20  # bytes per write
KINDS = {  # safetensors' names of torch's types
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
}


def default_folder() -> Path:
    """The folder of stored activations: `FROSTLINE_CACHE`, else `user_folder()`. Raises UsageError if it is a URL."""
    own = os.environ.get("FROSTLINE_CACHE")
    if own and "://" in own:
        raise UsageError("FROSTLINE_CACHE holds a URL, and names a folder only; give the URL with --store")
    return Path(own) if own else user_folder()


def user_folder() -> Path:
    """`frostline` in `XDG_CACHE_HOME`, else in this system's cache folder, such as ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "frostline"
    import platformdirs

    return platformdirs.user_cache_path("frostline", appauthor=False)


class _Raw(io.FileIO):
    """A new file that is written by this module's `os`."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, "x", opener=lambda name, flags: os.open(name, flags, 0o666))

    def write(self, content: ReadableBuffer, /) -> int:
        return os.write(self.fileno(), content)


class NewFile:
    """A growing file under a temporary name, until `finish` gives it its own: readers see nothing of it before.

    It is locked while it is open, so that others see that it is no leftover of a killed process. The umask decides who
    may read it. Raises OSError wherever bytes are written.
    """

    def __init__(self, folder: Path, name: str) -> None:
        while True:
            self.path = folder / f".{name[:40]}.{secrets.token_hex(8)}{TEMPORARY}"
            raw = _Raw(self.path)
            lock(raw.fileno(), wait=True)
            if os.name == "nt" or os.fstat(raw.fileno()).st_nlink:
                break
            raw.close()  # removed as a leftover before it was locked
        self.stream: BinaryIO = io.BufferedWriter(raw, BUFFER)

    def finish(self, file: Path) -> None:
        """Flush it to disk and let it take the place of a file."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        if os.name == "nt":  # which renames no open file; elsewhere it stays locked until it has its name
            self.stream.close()
        os.replace(self.path, file)  # noqa: PTH105
        self.stream.close()
        sync_folder(file.parent)

    def abandon(self) -> None:
        """Remove it, unless it is finished."""
        with contextlib.suppress(OSError):
            self.stream.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """A stream whose content then replaces the file: readers see the old file or the new one.

    A crash or a full disk leaves the old file. An OSError names the file.
    """
    new: NewFile | None = None
    try:
        new = NewFile(file.parent, file.name)
        yield new.stream
        new.finish(file)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(file)) from error  # the error of a full disk names no file
    finally:
        if new is not None:
            new.abandon()


def lock(descriptor: int, *, wait: bool = False) -> bool | None:
    """Lock an open file until it is closed; False if another process has it, None if this disk has no locks.

    The system frees the lock of a process that ends, however it ends.
    """
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows, some network disks
        return None
    return True


def is_temporary(name: str, of: str = "") -> bool:
    """Whether a file of that name is not complete yet. of: the name that it will get, "" for any."""
    return name.startswith(f".{of}") and name.endswith(TEMPORARY)


def unfinished(folder: Path, name: str = "", *, remove: bool = False) -> list[tuple[Path, int]]:
    """The temporary files in a folder that killed processes left, with their bytes.

    name: only those of one file. remove: removes them.
    """
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as files:
        for file in files:
            if is_temporary(file.name, name):
                with contextlib.suppress(OSError):
                    status = file.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode) and _is_left(folder / file.name, status.st_mtime, remove=remove):
                        found.append((folder / file.name, status.st_size))
    return found


def _is_left(path: Path, changed: float, *, remove: bool) -> bool:
    """Whether nobody writes a temporary file: its lock is free; without locks, nobody has for an hour."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        free = lock(descriptor)
        left = changed < time.time() - GROWING if free is None else free
        if left and remove:  # under the lock: whoever has just created it sees that it is gone
            path.unlink()
    finally:
        os.close(descriptor)
    return left


def refuse_overwriting(file: Path, give: str = "another name") -> None:
    """Raises UsageError if something is at that path. give: what the message asks for instead."""
    if file.exists():
        raise UsageError(f"{file} already exists and is not overwritten; give {give}")


def write_atomically(file: Path, content: bytes) -> None:
    """Write a whole file or nothing; raises an OSError that names it."""
    with replacing(file) as stream:
        stream.write(content)


def move(file: Path, target: Path) -> None:
    """Move a file or folder that a library wrote to its place on the same disk, after it is flushed to disk."""
    for each in [*file.rglob("*"), file] if file.is_dir() else [file]:
        if each.is_dir():
            sync_folder(each)
            continue
        with each.open("rb+") as stream:
            os.fsync(stream.fileno())
    os.replace(file, target)  # noqa: PTH105
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Flush a rename to disk; on Windows and some network disks, where a folder cannot be opened, do nothing."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors of any device as a safetensors file, atomically and with one tensor at a time in memory.

    The package safetensors reads such files; its own writer creates temporary files and permissions of its own. Tensors
    that share memory, such as tied weights, are all written, so that a reader finds every name.
    Raises MachineError if the file cannot be written, UsageError for a type of numbers that such files cannot hold.
    """
    ordered = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # so each is aligned
    described: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in ordered:
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind not in KINDS:
            raise UsageError(f"{name} has numbers of type {kind}, which a safetensors file cannot hold")
        described[name] = {"dtype": KINDS[kind], "shape": list(tensor.shape), "data_offsets": [start, end]}
    header = json.dumps(described, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    try:
        with replacing(file) as stream:
            stream.write(len(header).to_bytes(8, "little") + header)
            for name in ordered:
                stream.write(tensor_bytes(tensors[name]))
    except OSError as error:
        raise MachineError(f"cannot write {file}: {error.strerror or error}") from error


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor's numbers, in the order of its elements."""
    import torch  # takes seconds; only this function needs it

    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().data
