"""Digests of pictures, and the memory of those of files."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from frostline.data import digests as module
from frostline.data.decoding import Item, Picture
from frostline.data.digests import MEMORY, Digests, digest
from frostline.data.texts import Paths


def digests(pictures: Sequence[Picture], store: Path | None = None) -> list[bytes]:
    """As a run finds them out that starts now."""
    files = all(isinstance(picture, Path) for picture in pictures)
    found = Digests.of(Paths.of(pictures) if files else pictures)
    return [each.tobytes() for each in found.all(store)]


def photo(width: int = 24, height: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three files that have lain still for a while."""
    paths = [tmp_path / name for name in ("a.png", "sub/b.png", "c\udcff.png")]
    for i, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([i] * 10))
    return paths


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute has passed since the files were written."""
    now = time.time_ns
    monkeypatch.setattr(module.time, "time_ns", lambda: now() + 60_000_000_000)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was read, in whatever order."""
    original, seen = module._read, []
    monkeypatch.setattr(module, "_read", lambda picture: (seen.append(picture), original(picture))[1])
    return seen


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_digest_tells_contents_apart(tmp_path_factory, first: bytes, second: bytes) -> None:
    files = [tmp_path_factory.getbasetemp() / name for name in ("digest-a", "digest-b")]
    for file, content in zip(files, (first, second), strict=True):
        file.write_bytes(content)
    assert (digest(files[0]) == digest(files[1])) == (first == second)
    assert len(digest(files[0])) == 16


def test_digest_of_arrays_tells_pixels_and_shapes_apart() -> None:
    other = photo()
    other[3, 4, 1] ^= 1
    arrays = [photo(), other, photo().reshape(24, 16, 3), np.zeros((4, 6), np.uint8), np.zeros((6, 4), np.uint8)]
    assert len({digest(array) for array in arrays}) == len(arrays)
    assert digest(np.asfortranarray(photo())) == digest(photo())


def test_digest_of_an_unreadable_file_is_its_own(tmp_path: Path) -> None:
    first, second = digest(tmp_path / "a.jpg"), digest(tmp_path / "b.jpg")
    assert first != second
    assert len(first) == 16


def test_digest_of_an_item_is_that_of_the_pixels_it_shows() -> None:
    palette = Image.fromarray(photo()).convert("P")
    shown = np.asarray(palette.convert("RGB"))
    source = [(palette,), (shown,), (photo(),)]
    found = [digest(Item(source, i, 0)) for i in range(3)]
    assert found == [digest(shown), digest(shown), digest(photo())]
    assert found[0] != found[2]


def test_digests_of_items_that_are_not_there_are_their_own() -> None:
    assert digest(Item([], 0, 0)) != digest(Item([], 1, 0))


def test_digest_of_a_fifo_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    thread = threading.Thread(target=digest, args=[tmp_path / "a.jpg"], daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.usefixtures("later")
def test_files_are_read_once_for_all_runs(files, read, tmp_path, monkeypatch) -> None:
    first = digests(files, tmp_path / "store")
    assert first == [digest(file) for file in files]
    read.clear()
    assert digests(files[::-1], tmp_path / "store") == first[::-1]
    monkeypatch.chdir(tmp_path)
    assert digests([Path("sub/b.png")], tmp_path / "store") == first[1:2]
    assert read == []


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("change", ["content", "size", "moved over", "times put back"])
def test_a_changed_file_is_read_again(files, read, tmp_path, change) -> None:
    before, times = digests(files, tmp_path / "store"), files[0].stat()
    read.clear()
    if change == "moved over":
        files[1].replace(files[0])
    else:
        files[0].write_bytes(b"x" * (10 if change != "size" else 11))
    if change == "times put back":
        os.utime(files[0], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert digests(files[:1], tmp_path / "store") != before[:1]
    assert read == files[:1]


def test_what_was_written_a_moment_ago_is_not_remembered(files, read, tmp_path) -> None:
    digests(files, tmp_path / "store")
    read.clear()
    digests(files, tmp_path / "store")
    assert sorted(read) == sorted(files)


@pytest.mark.usefixtures("later")
def test_what_could_not_be_read_is_not_remembered(files, read, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", lambda _: 1 / 0)
        before = digests(files, tmp_path / "store")
    read.clear()
    assert digests(files, tmp_path / "store") != before
    assert sorted(read) == sorted(files)


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("fault", ["no folder", "damaged", "another table"])
def test_without_a_usable_memory_files_are_read(files, tmp_path, fault) -> None:
    store = tmp_path / "store"
    if fault == "no folder":
        store.write_bytes(b"a file")
    else:
        digests(files, store)
        content = (store / MEMORY).read_bytes()
        changed = b"no database" * 100 if fault == "damaged" else content.replace(b"modified", b"whenever")
        (store / MEMORY).write_bytes(changed)
    assert digests(files, store) == [digest(file) for file in files]


def test_arrays_and_files_that_are_not_there_come_in_order(files, tmp_path) -> None:
    pictures = [photo(), files[0], tmp_path / "none.png", files[1]]
    assert digests(pictures, tmp_path / "store") == [digest(picture) for picture in pictures] == digests(pictures)


@pytest.mark.usefixtures("later")
def test_folders_are_asked_for_once_in_whatever_order_their_files_come(tmp_path, read, monkeypatch) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
        for i in range(5):
            (folder / f"{i}.png").write_bytes(f"{folder.name}{i}".encode())
    mixed = [folder / f"{i}.png" for i in (3, 1, 4, 0, 2) for folder in folders]
    before = digests(mixed, tmp_path / "store")
    read.clear()
    asked = []
    original = Digests._recall_folder
    monkeypatch.setattr(Digests, "_recall_folder", lambda *args: (asked.append(args[2]), original(*args))[1])
    assert digests(mixed[::-1], tmp_path / "store") == before[::-1]
    assert (sorted(asked), read) == ([str(folder) for folder in folders], [])


def test_many_are_remembered_in_blocks(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 2)
    monkeypatch.setattr(module, "SETTLED", -(10**12))
    files = [tmp_path / f"{i}.png" for i in range(7)]
    for file in files:
        file.write_bytes(file.name.encode())
    digests(files, tmp_path)
    some = Digests.of(Paths.of(files))
    some.recall(tmp_path)
    assert some.known.all()
    assert some == [digest(file) for file in files]


@pytest.mark.usefixtures("later")
def test_a_changed_digest_in_the_memory_is_not_believed(files, read, tmp_path) -> None:
    before = digests(files, tmp_path / "store")
    with sqlite3.connect(tmp_path / "store" / MEMORY) as table:
        table.execute("UPDATE digests SET digest = zeroblob(20) WHERE name = ?", [b"a.png"])
        table.execute("UPDATE digests SET digest = 7 WHERE name = ?", [b"b.png"])
    table.close()
    read.clear()
    assert digests(files, tmp_path / "store") == before
    assert sorted(read) == sorted(files[:2])


def test_copies_have_one_number(files: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(files[1].read_bytes())
    assert Digests.of(Paths.of([*files, copy])).contents().tolist() == [0, 1, 2, 1]
    assert Digests.of([photo(), photo(8), photo()]).contents().tolist() == [0, 1, 0]
    assert Digests.of([]).contents().tolist() == []


def test_a_file_of_its_own_size_is_not_read_for_its_copies(files, read, tmp_path) -> None:
    files[0].write_bytes(b"longer than the others")
    found = Digests.of(Paths.of(files)).contents(tmp_path / "store")
    assert found.tolist() == [0, 1, 2]
    assert sorted(map(str, read)) == sorted(map(str, files[1:]))


@pytest.mark.usefixtures("later")
def test_copies_are_found_by_what_the_store_remembers(files, read, tmp_path) -> None:
    for _ in range(2):
        Digests.of(Paths.of(files)).contents(tmp_path / "store")
    assert len(read) == len(files)
