"""Writing files safely, and the folders that Frostline uses.

Every file is written under a temporary name in its own folder, flushed to disk and renamed; then the folder is flushed.
So a crash, a full disk or a power cut leaves the old file or the new one. The operations on the disk are `os.open`,
`os.write`, `os.fsync` and `os.replace` of this module: tests let each of them fail. Only logs, which grow line by
line, and the locks of the store are written elsewhere.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO

import yaml

from frostline.errors import MachineError, UsageError, reason

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from torch import Tensor

CLASSIFIER = "model.json"  # what the folder of every classifier has
NUMBER = re.compile(r"-?\d+(\.\d*)?([eE][+-]?\d+)?")


def safe_cell(value: object) -> object:
    """Quote text that starts with =, +, - or @, which a spreadsheet would read as a formula (as OWASP advises).

    A number such as -1 is no formula. Text that looks quoted already is quoted too, so that `plain_cell` can restore
    any text.
    """
    if not isinstance(value, str) or NUMBER.fullmatch(value):
        return value
    formula = value.lstrip("'").startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"))
    return f"'{value}" if formula else value


def csv_text(header: Sequence[str], records: Iterable[Sequence[object]]) -> str:
    """A table as CSV, one record per line, without formulas."""
    return "".join(csv_lines([header, *records]))


def csv_lines(records: Iterable[Sequence[object]]) -> Iterator[str]:
    """The lines of a CSV table, one by one; the first record has the column names."""
    lines: list[str] = []
    # The writer ends lines with "\r\n" and therefore quotes a "\r" in a name, which it would not do with "\n" alone.
    writer = csv.writer(SimpleNamespace(write=lambda line: lines.append(line[:-2] + "\n")))
    for record in records:
        writer.writerow([safe_cell(value) for value in record])
        yield lines.pop()


def plain_cell(cell: str) -> str:
    """The original text of a cell from `safe_cell`."""
    return cell[1:] if cell.startswith("'") and safe_cell(cell[1:]) != cell[1:] else cell


def finite(value: Any) -> Any:
    """A value of numbers, text, lists and mappings with None instead of NaN and infinity, which JSON lacks."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


MOST_YAML_BYTES, MOST_ALIASES = 1_000_000, 100
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
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def default_folder() -> Path:
    """The folder of stored activations: `FROSTLINE_CACHE`, else `user_folder()`."""
    own = os.environ.get("FROSTLINE_CACHE")
    return Path(own) if own else user_folder()


def user_folder() -> Path:
    """`frostline` in `XDG_CACHE_HOME`, else in this system's cache folder, such as ~/.cache."""
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


def unfinished(folder: Path, name: str = "", *, remove: bool = False) -> list[tuple[Path, int]]:
    """The temporary files in a folder that killed processes left, with their bytes.

    name: only those of one file. remove: removes them.
    """
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as files:
        for file in files:
            if file.name.startswith(f".{name}") and file.name.endswith(TEMPORARY):
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


class _Plain(yaml.SafeLoader):
    """Plain values only, no key twice, and few aliases: a handful of lines can unfold to gigabytes."""

    aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MOST_ALIASES:
                text = f"found more than {MOST_ALIASES} aliases"
                raise yaml.composer.ComposerError(problem=text, problem_mark=self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in keys:
                text = f"found the key {key.value!r} a second time"
                raise yaml.constructor.ConstructorError(problem=text, problem_mark=key.start_mark)
            keys.add((key.tag, key.value) if isinstance(key, yaml.ScalarNode) else key)
        return super().construct_mapping(node, deep)


def read_yaml(file: Path) -> Any:
    """The plain values of a YAML file; raises UsageError if it is invalid or too large to be written by hand."""
    if file.stat().st_size > MOST_YAML_BYTES:
        raise UsageError(f"{file} is larger than {MOST_YAML_BYTES:,} bytes: nobody's settings")
    try:
        text = file.read_text(encoding="utf-8")
    except ValueError as error:
        raise UsageError(f"{file} is not valid YAML: {reason(error)}") from error
    return plain_values(text, file)


def plain_values(text: str, file: Path) -> Any:
    """The same of the text of a file."""
    try:
        loader = _Plain(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UsageError(f"{file} is not valid YAML: {where}{error.problem or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not valid YAML: {reason(error)}") from error
