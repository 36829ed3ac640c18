"""Entries of the store: what is opened, refused, counted and removed."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from frostline.store import shards as store
from frostline.store.claims import claimed
from frostline.store.shard_file import Form, Shard, ShardWriter
from frostline.store.shards import (
    Cache,
    Opened,
    check,
    describe,
    entries,
    make_room,
    open_entry,
    prune,
    remove,
)

KEY = "k" * 32
FORM = Form(KEY, (3, 2, 2), "float32")
ABOUT = {"backbone": "small", "rows": "…"}


def names(count: int, first: int = 0) -> np.ndarray:
    labels = b"".join(i.to_bytes(16, "big") for i in range(first, first + count))
    return np.frombuffer(labels, np.uint8).reshape(-1, 16)


def rows(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


def write(folder: Path, values: torch.Tensor, labels: np.ndarray, form: Form = FORM) -> Shard:
    describe(folder, ABOUT)
    writer = ShardWriter(folder, form, {"engine": "torch"}, [1.0])
    writer.add(values, labels)
    return writer.close()


def assert_holds(shard: Shard, expected: torch.Tensor, labels: np.ndarray) -> None:
    assert torch.equal(shard.read(np.arange(len(shard))), expected)
    assert np.array_equal(shard.names(), labels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "activations" / KEY


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """A shard's file name and its bytes."""
    shard = write(tmp_path_factory.mktemp("shard"), rows(3), names(3))
    return shard.path.name, shard.path.read_bytes()


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written has lain still for long enough."""
    monkeypatch.setattr(store, "SETTLED", -(10**12))


def test_shards_are_added(folder: Path) -> None:
    for part in range(3):
        write(folder, rows(2, part), names(2, 2 * part))
    opened = open_entry(folder, FORM)
    assert (len(opened.shards), opened.damaged, opened.ignored) == (3, 0, ())
    for shard in opened.shards:
        first = int.from_bytes(shard.names()[0].tobytes(), "big")
        assert_holds(shard, rows(2, first // 2), names(2, first))
    assert sorted(opened.index.find(names(7)).tolist()) == [-1, 0, 1, 2, 3, 4, 5]


def test_same_shard_twice_is_one_file(folder: Path) -> None:
    for _ in range(2):
        write(folder, rows(2), names(2))
    assert len(open_entry(folder, FORM).shards) == 1


def test_store_tells_what_it_is(folder: Path) -> None:
    write(folder, rows(2), names(2))
    describe(folder, {"other": 1})
    assert json.loads((folder / "entry.json").read_text()) == ABOUT


@pytest.mark.parametrize("exists", [True, False])
def test_store_without_shards(exists: bool, folder: Path) -> None:
    if exists:
        folder.mkdir(parents=True)
    assert open_entry(folder, FORM) == Opened()


def test_opening_marks_the_store_as_used(folder: Path) -> None:
    write(folder, rows(2), names(2))
    os.utime(folder / "entry.json", (1000, 1000))
    open_entry(folder, FORM)
    assert time.time() - (folder / "entry.json").stat().st_mtime < 60


def test_store_without_its_description_still_opens(folder: Path) -> None:
    write(folder, rows(2), names(2))
    (folder / "entry.json").unlink()
    assert len(open_entry(folder, FORM).shards) == 1


def assert_refused(folder: Path, name: str, damaged: bytes) -> None:
    """The damaged shard is removed, and the good one next to it is used."""
    write(folder, rows(2, 5), names(2, 50))
    (folder / name).write_bytes(damaged)
    opened = open_entry(folder, FORM)
    assert opened.damaged == 1
    assert_holds(opened.shards[0], rows(2, 5), names(2, 50))
    assert not (folder / name).exists()
    assert open_entry(folder, FORM).damaged == 0


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 10_000), flipped=st.integers(1, 255))
@example(position=0, flipped=1)
@example(position=63, flipped=1)
@example(position=64, flipped=1)
@example(position=9_999, flipped=128)
def test_flipped_byte_anywhere_is_found(
    tmp_path_factory: pytest.TempPathFactory, content: tuple[str, bytes], position: int, flipped: int
) -> None:
    name, intact = content
    damaged = bytearray(intact)
    damaged[position % len(intact)] ^= flipped
    assert_refused(tmp_path_factory.getbasetemp() / "flipped", name, bytes(damaged))


@settings(max_examples=60, deadline=None)
@given(left=st.integers(0, 10_000))
@example(left=0)
@example(left=9_999)
def test_truncated_shard_is_found(
    tmp_path_factory: pytest.TempPathFactory, content: tuple[str, bytes], left: int
) -> None:
    name, intact = content
    assert_refused(tmp_path_factory.getbasetemp() / "truncated", name, intact[: left % len(intact)])


@pytest.mark.parametrize("change", [lambda b: b + b"\0", lambda b: b[::-1], lambda b: b + b])
def test_shard_of_other_content_is_found(change, content: tuple[str, bytes], folder: Path) -> None:
    name, intact = content
    assert_refused(folder, name, change(intact))


def test_intact_bytes_under_a_wrong_name_are_refused(content: tuple[str, bytes], folder: Path) -> None:
    assert_refused(folder, f"{'0' * 32}.shard", content[1])


@pytest.mark.parametrize(
    "other",
    [Form("other", (3, 2, 2), "float32"), Form(KEY, (12,), "float32"), Form(KEY, (3, 2, 4), "bfloat16")],
    ids=["key", "shape", "dtype"],
)
def test_R05_a_shard_of_another_entry_is_ignored_and_stays(other: Form, folder: Path, tmp_path: Path) -> None:
    values = torch.zeros(2, *other.shape, dtype=getattr(torch, other.dtype))
    carried = write(tmp_path / "elsewhere", values, names(2), other)
    write(folder, rows(2, 1), names(2, 9))
    shutil.copy(carried.path, folder)
    opened = open_entry(folder, FORM)
    assert (len(opened.shards), opened.damaged) == (1, 0)
    assert opened.ignored == (f"{carried.path.name}: it belongs to another entry",)
    assert (folder / carried.path.name).exists()


def test_R12_odd_files_are_ignored_and_nobody_waits_for_them(folder: Path) -> None:
    write(folder, rows(2), names(2))
    os.mkfifo(folder / f"{'1' * 32}.shard")
    (folder / f"{'2' * 32}.shard").mkdir()
    (folder / f"{'3' * 32}.shard").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe")
    (folder / "notes.txt").write_text("notes")
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}              ")
    (folder / os.fsdecode(b"\xff.shard")).write_bytes(b"x")
    opened = open_entry(folder, FORM)
    assert (len(opened.shards), opened.damaged) == (1, 0)
    assert opened.ignored == tuple(f"{number * 32}.shard: not a regular file" for number in "12")
    assert len(entries(folder.parent.parent)) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_shard_that_may_not_be_read_is_ignored(folder: Path) -> None:
    shard = write(folder, rows(2), names(2))
    shard.path.chmod(0)
    assert open_entry(folder, FORM).ignored == (f"{shard.path.name}: Permission denied",)


@pytest.mark.usefixtures("settled")
def test_bytes_are_read_once_for_all_processes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, rows(3), names(3))
    open_entry(folder, FORM)
    with monkeypatch.context() as patch:
        patch.setattr(store, "verify", lambda _: pytest.fail("read again"))
        assert len(open_entry(folder, FORM).shards) == 1
    (folder / "verified.json").write_text("[")
    assert len(open_entry(folder, FORM).shards) == 1


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("times", ["new", "put back"])
def test_R05_damage_after_that_shows_too(folder: Path, times: str) -> None:
    shard = write(folder, rows(3), names(3))
    open_entry(folder, FORM)
    before, damaged = shard.path.stat(), bytearray(shard.path.read_bytes())
    damaged[80] ^= 1
    shard.path.write_bytes(bytes(damaged))
    if times == "put back":
        os.utime(shard.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert open_entry(folder, FORM).damaged == 1


def test_what_was_written_a_moment_ago_is_not_remembered(folder: Path) -> None:
    write(folder, rows(3), names(3))
    open_entry(folder, FORM)
    assert not (folder / "verified.json").exists()


def test_checking_reads_everything_and_removes_nothing(folder: Path) -> None:
    good, bad = write(folder, rows(3), names(3)), write(folder, rows(3, 1), names(3, 5))
    damaged = bytearray(bad.path.read_bytes())
    damaged[70] ^= 1
    bad.path.write_bytes(bytes(damaged))
    os.mkfifo(folder / f"{'1' * 32}.shard")
    found = check(folder)
    assert (found.intact, found.bytes) == (1, good.path.stat().st_size)
    assert found.damaged == ((bad.path, "rows changed"),)
    assert [file.name for file, _ in found.ignored] == [f"{'1' * 32}.shard"]
    assert bad.path.exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such locks")
def test_R22_leftovers_are_counted_and_removed_and_what_grows_stays(folder: Path, tmp_path: Path) -> None:
    write(folder, rows(3), names(3))
    growing = ShardWriter(folder, FORM, {"engine": "torch"}, [1.0])
    for file, size in ((folder / ".shard.0123.tmp", 5000), (tmp_path / ".engines.json.0123.tmp", 100)):
        file.write_bytes(bytes(size))
    (tmp_path / ".mine.tmp").write_bytes(b"x")  # the folder may be one with other files
    (entry,) = entries(tmp_path)
    assert entry.leftover == 5000
    assert entry.bytes > 5100
    assert prune(tmp_path, 10**9) == (0, entry.bytes - 5000)
    assert not list(tmp_path.rglob("*.0123.tmp"))
    assert (tmp_path / ".mine.tmp").exists()
    growing.add(rows(2, 1), names(2, 5))
    growing.close()
    assert len(open_entry(folder, FORM).shards) == 2
    assert not list(folder.glob("*.tmp"))


def test_an_entry_that_is_filled_now_is_never_removed(tmp_path: Path) -> None:
    filled(tmp_path, 3 * DAYS, 2 * DAYS)
    with claimed([tmp_path / "activations" / "a"]):
        assert make_room(Cache(tmp_path, 3000), 2990, []) is False
    assert left(tmp_path) == {"a"}
    assert make_room(Cache(tmp_path, 3000), 2990, [])
    assert left(tmp_path) == set()


def test_open_shards_stay_readable_when_the_store_is_removed(tmp_path: Path, folder: Path) -> None:
    write(folder, rows(3), names(3))
    (shard,) = open_entry(folder, FORM).shards
    (entry,) = entries(tmp_path)
    remove(entry)
    assert not folder.exists()
    assert_holds(shard, rows(3), names(3))


def test_the_disk_is_a_limit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil._ntuple_diskusage(10**12, 10**12 - 6 * 10**8, 6 * 10**8)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: usage)
    assert make_room(Cache(tmp_path / "new"), 10**8, [])
    assert not make_room(Cache(tmp_path / "new"), 10**8 + 1, [])


def test_an_old_entry_goes_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = filled(tmp_path, DAYS)
    usage = shutil._ntuple_diskusage(10**12, 10**12, 0)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: usage)
    assert make_room(Cache(tmp_path), taken["a"] - 10, [])
    assert left(tmp_path) == set()


DAYS = 24 * 3600


def filled(cache: Path, *ages: float) -> dict[str, int]:
    """Stores named by letters that were last used so many seconds ago; how many bytes each takes."""
    taken = {}
    for number, age in enumerate(ages):
        place = cache / "activations" / "abcdef"[number]
        describe(place, {"number": number})
        write(place, rows(4, number), names(4))
        used = time.time() - age
        os.utime(place / "entry.json", (used, used))
        taken[place.name] = sum(file.stat().st_size for file in place.iterdir())
    return taken


def left(cache: Path) -> set[str]:
    return {place.name for place in (cache / "activations").iterdir()}


def test_entries_are_listed_the_most_recently_used_first(tmp_path: Path) -> None:
    taken = filled(tmp_path, 3 * DAYS, DAYS, 2 * DAYS)
    listed = entries(tmp_path)
    assert [entry.folder.name for entry in listed] == ["b", "c", "a"]
    assert [entry.about for entry in listed] == [{"number": 1}, {"number": 2}, {"number": 0}]
    assert [entry.bytes for entry in listed] == [taken["b"], taken["c"], taken["a"]]
    assert abs(time.time() - listed[0].used - DAYS) < 60


def test_entries_of_an_empty_or_missing_cache(tmp_path: Path) -> None:
    assert entries(tmp_path) == entries(tmp_path / "gone") == []


def test_entry_with_a_broken_description_is_listed_and_counted(tmp_path: Path) -> None:
    taken = filled(tmp_path, DAYS)
    (tmp_path / "activations" / "a" / "entry.json").write_text("{")
    (entry,) = entries(tmp_path)
    assert (entry.folder.name, entry.about) == ("a", {})
    assert entry.bytes == taken["a"] - len(json.dumps({"number": 0}, indent=2)) + 1


def test_room_that_is_there_evicts_nothing(tmp_path: Path) -> None:
    total = sum(filled(tmp_path, DAYS, 2 * DAYS).values())
    assert make_room(Cache(tmp_path, total + 10), 10, [tmp_path / "new"])
    assert left(tmp_path) == {"a", "b"}


def test_least_recently_used_goes_first_and_no_more_than_needed(tmp_path: Path) -> None:
    total = sum(filled(tmp_path, 2 * DAYS, 4 * DAYS, DAYS, 3 * DAYS).values())
    assert make_room(Cache(tmp_path, total), 1, [tmp_path / "new"])
    assert left(tmp_path) == {"a", "c", "d"}
    assert make_room(Cache(tmp_path, total // 2), 1, [tmp_path / "new"])
    assert left(tmp_path) == {"c"}


def test_own_store_and_what_this_hour_used_stay(tmp_path: Path) -> None:
    taken = filled(tmp_path, 9 * DAYS, 3 * DAYS, 60, 3500)
    own = tmp_path / "activations" / "a"
    assert not make_room(Cache(tmp_path, taken["a"] + 1), 2, [own])
    assert left(tmp_path) == {"a", "c", "d"}


def test_need_beyond_the_budget_evicts_nothing(tmp_path: Path) -> None:
    filled(tmp_path, DAYS, 2 * DAYS)
    assert not make_room(Cache(tmp_path, 100), 101, [tmp_path / "new"])
    assert left(tmp_path) == {"a", "b"}


def test_room_in_a_cache_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert make_room(Cache(tmp_path / "gone", 100), 100, [tmp_path / "gone" / "activations" / "a"])


def test_what_may_be_added_is_a_limit_of_its_own(tmp_path):
    assert make_room(Cache(tmp_path, 10**6, most=1000), 1000, [])
    assert not make_room(Cache(tmp_path, 10**6, most=1000), 1001, [])
