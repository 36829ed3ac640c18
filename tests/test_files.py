"""How files are written, and where Frostline keeps them."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from frostline import files
from frostline.errors import MachineError, UsageError
from frostline.files import NewFile, default_folder, move, unfinished, user_folder, write_atomically, write_tensors

needs_locks = pytest.mark.skipif(os.name == "nt", reason="Windows has no such locks")
needs_umask = pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")


@pytest.fixture
def umask():
    """Set the umask of the process; it is put back."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@needs_umask
@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664), (0o027, 0o640)])
def test_the_umask_decides_who_may_read(mask, mode, umask, tmp_path):
    umask(mask)
    write_atomically(tmp_path / "file", b"new")
    write_tensors(tmp_path / "tensors", {"a": torch.ones(2)})
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "tensors")] == [mode, mode]


@needs_umask
def test_a_private_file_is_never_readable_by_others_meanwhile(umask, tmp_path, monkeypatch):
    umask(0o077)
    modes = []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write_atomically(tmp_path / "file", b"new")
    assert modes[0] == 0o600


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    for content in (b"old", b"", b"new" * 100_000):
        write_atomically(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["ü" * 120, ".hidden", "with space.json"])
def test_names_of_all_kinds(name, tmp_path):
    write_atomically(tmp_path / name, b"x")
    assert (tmp_path / name).read_bytes() == b"x"


def test_a_folder_that_cannot_be_opened_is_no_reason_to_fail(tmp_path, monkeypatch):
    """As on Windows."""
    system = os.open

    def windows(path, *arguments):
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return system(path, *arguments)

    monkeypatch.setattr(os, "open", windows)
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EFBIG, errno.EIO])
def test_an_error_names_the_file_and_leaves_the_old_one(fault, tmp_path, monkeypatch):
    """`write()` itself raises without a name: a full disk would be one that nobody knows."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=os.strerror(fault)) as error:
        write_atomically(file, b"new")
    assert (error.value.filename, error.value.errno) == (str(file), fault)
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        write_atomically(tmp_path / "gone" / "file", b"")
    assert error.value.filename == str(tmp_path / "gone" / "file")


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_threads_that_write_one_file_leave_one_of_their_contents(tmp_path):
    contents = [bytes([i]) * 10_000 for i in range(8)]
    threads = [threading.Thread(target=write_atomically, args=(tmp_path / "file", c)) for c in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_bytes() in contents
    assert len(list(tmp_path.iterdir())) == 1


def test_the_store_lies_where_it_is_said_to_lie(monkeypatch, tmp_path):
    monkeypatch.setenv("FROSTLINE_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "own"
    assert user_folder() == tmp_path / "xdg" / "frostline"
    monkeypatch.delenv("FROSTLINE_CACHE")
    assert default_folder() == tmp_path / "xdg" / "frostline"


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname != "Linux", reason="of Linux")
def test_without_a_word_the_store_lies_in_the_home(monkeypatch, tmp_path):
    for name in ("FROSTLINE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "frostline"


def test_tensors_are_written_once_each_also_tied_ones(tmp_path):
    weight = torch.rand(4, 4)
    write_tensors(tmp_path / "file", {"a": weight, "b": weight, "c": weight.T})
    stored = load_file(tmp_path / "file")
    assert torch.equal(stored["a"], weight)
    assert torch.equal(stored["b"], weight)
    assert torch.equal(stored["c"], weight.T)


def test_tensors_that_share_their_numbers_are_written_each(tmp_path):
    one = torch.arange(12.0)
    tensors = {"a": one, "again": one, "part": one[3:6], "turned": one.view(3, 4).T, "empty": torch.empty(0)}
    write_tensors(tmp_path / "x.safetensors", tensors, {"made": "here"})
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], value) for name, value in tensors.items())
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_tensors_that_cannot_be_written_are_an_error_of_the_machine(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "write", full)
    with pytest.raises(MachineError, match="cannot write .*x.safetensors: No space left"):
        write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(2)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", files.KINDS)
def test_numbers_of_every_type_come_back(kind, tmp_path):
    dtype = getattr(torch, kind)
    tensors = {f"{n}": (torch.arange(6.0) % 2).view(shape).to(dtype) for n, shape in enumerate([(2, 3), (6,), (1, 6)])}
    tensors |= {"one": torch.ones(()).to(dtype), "none": torch.zeros(3, 0).to(dtype), "half": torch.ones(3).half()}
    write_tensors(tmp_path / "x", tensors, {"ä": "ß"})
    read = load_file(tmp_path / "x")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (read[name].shape, read[name].dtype) == (tensor.shape, tensor.dtype)
        assert read[name].view(torch.uint8).tolist() == tensor.view(torch.uint8).tolist() if tensor.ndim else True
    with safe_open(tmp_path / "x", "pt") as opened:
        assert opened.metadata() == {"ä": "ß"}


class Recorded:
    """The module `os`, which writes down what it does to the disk."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def __getattr__(self, name: str):
        original = getattr(os, name)
        if name not in ("open", "write", "fsync", "replace"):
            return original

        def recorded(first, *more):
            of = "folder" if isinstance(first, int) and stat.S_ISDIR(os.fstat(first).st_mode) else "file"
            is_read = name == "open" and not more[0] & os.O_CREAT
            self.done += [] if is_read else [f"{name} {of}"]
            return original(first, *more)

        return recorded


@needs_locks
def test_F04_what_is_renamed_is_on_the_disk_before(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "os", recorded := Recorded())
    write_atomically(tmp_path / "file", b"x" * (files.BUFFER + 1))
    assert recorded.done == ["open file", "write file", "fsync file", "replace file", "fsync folder"]
    recorded.done.clear()
    write_tensors(tmp_path / "tensors", {"a": torch.zeros(3)})
    assert recorded.done == ["open file", "write file", "fsync file", "replace file", "fsync folder"]


def test_what_a_library_wrote_is_on_the_disk_before_it_is_moved(tmp_path, monkeypatch):
    (tmp_path / "made" / "inside").mkdir(parents=True)
    for name in ("a", "inside/b"):
        (tmp_path / "made" / name).write_bytes(b"x")
    monkeypatch.setattr(files, "os", recorded := Recorded())
    move(tmp_path / "made", tmp_path / "moved")
    assert (tmp_path / "moved" / "inside" / "b").read_bytes() == b"x"
    at = recorded.done.index("replace file")
    assert sorted(recorded.done[:at]) == ["fsync file", "fsync file", "fsync folder", "fsync folder"]
    assert recorded.done[at + 1 :] == ["fsync folder"]


@needs_locks
def test_R22_what_a_killed_process_left_is_known_at_once(tmp_path):
    """A living process keeps its temporary file locked; the system frees the lock of a dead one."""
    growing = NewFile(tmp_path, "model.json")
    growing.stream.write(b"new")
    (tmp_path / ".model.json.0123.tmp").write_bytes(bytes(500))
    (tmp_path / ".other.tmp").write_bytes(bytes(7))
    (tmp_path / ".folder.tmp").mkdir()
    (tmp_path / "own.tmp").write_bytes(b"x")
    os.mkfifo(tmp_path / ".pipe.tmp")
    assert sorted(unfinished(tmp_path)) == [(tmp_path / ".model.json.0123.tmp", 500), (tmp_path / ".other.tmp", 7)]
    assert len(unfinished(tmp_path, "model")) == 1
    unfinished(tmp_path, remove=True)
    growing.finish(tmp_path / "model.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".folder.tmp", ".pipe.tmp", "model.json", "own.tmp"]
    assert (tmp_path / "model.json").read_bytes() == b"new"


def test_F26_without_locks_a_temporary_file_is_left_after_an_hour(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "lock", lambda *_, **__: None)
    growing = NewFile(tmp_path, "young")
    (tmp_path / ".old.tmp").write_bytes(b"x")
    os.utime(tmp_path / ".old.tmp", (time.time() - files.GROWING - 60,) * 2)
    unfinished(tmp_path, remove=True)
    assert list(tmp_path.iterdir()) == [growing.path]
    growing.abandon()
    assert list(tmp_path.iterdir()) == []


@needs_locks
def test_a_file_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    """Another process may look for leftovers between the two."""
    original, removed = files.lock, []

    def late(descriptor, *, wait=False):
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].unlink()
        return original(descriptor, wait=wait)

    monkeypatch.setattr(files, "lock", late)
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert len(removed) == 1


def test_numbers_that_no_file_can_hold_are_refused(tmp_path):
    with pytest.raises(UsageError, match="odd has numbers of type complex128"):
        write_tensors(tmp_path / "x", {"odd": torch.zeros(2, dtype=torch.complex128)})
    assert list(tmp_path.iterdir()) == []
