from __future__ import annotations

import contextlib
import json
import os
import resource
import time
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from frostline.errors import UsageError
from frostline.files import default_folder, parse_bytes, write_atomically
from frostline.store import shards as store
from frostline.store.shards import Cache, Shard, entries, make_room, open_shards, remove, write_shard

ABOUT = {"backbone": "small", "rows": "…"}


def names(count: int, first: int = 0) -> list[bytes]:
    return [i.to_bytes(16, "big") for i in range(first, first + count)]


def rows(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(count, 3, 2, 2, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_holds(shard: Shard, expected: torch.Tensor, labels: list[bytes]) -> None:
    assert shard.rows.dtype == expected.dtype
    assert torch.equal(shard.rows, expected)
    assert shard.names == labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "activations" / "key"


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """A shard's file name and its bytes."""
    place = tmp_path_factory.mktemp("shard")
    write_shard(place, ABOUT, rows(3), names(3))
    (file,) = place.glob("*.safetensors")
    return file.name, file.read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
def test_what_was_written_is_opened(dtype: torch.dtype, folder: Path) -> None:
    values = rows(5, dtype=dtype)
    assert_holds(write_shard(folder, ABOUT, values, names(5)), values, names(5))
    (shard,), damaged = open_shards(folder)
    assert damaged == 0
    assert_holds(shard, values, names(5))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=3), st.data())
def test_rows_of_any_shape_and_names_of_any_bytes(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("any")
    labels = data.draw(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=5))
    values = torch.arange(len(labels) * int(torch.tensor(shape).prod())).float().view(len(labels), *shape)
    write_shard(place, ABOUT, values, labels)
    (shard,), _ = open_shards(place)
    assert_holds(shard, values, labels)


def test_rows_that_are_not_contiguous(folder: Path) -> None:
    values = rows(4).permute(0, 3, 1, 2)[::2]
    assert_holds(write_shard(folder, ABOUT, values, names(2)), values, names(2))


def test_shards_are_added(folder: Path) -> None:
    for part in range(3):
        write_shard(folder, ABOUT, rows(2, part), names(2, 2 * part))
    shards, damaged = open_shards(folder)
    assert damaged == 0
    assert sorted(name for shard in shards for name in shard.names) == names(6)
    for shard in shards:
        assert torch.equal(shard.rows, rows(2, int.from_bytes(shard.names[0], "big") // 2))


def test_same_shard_twice_is_one_file(folder: Path) -> None:
    for _ in range(2):
        write_shard(folder, ABOUT, rows(2), names(2))
    assert len(open_shards(folder)[0]) == 1


def test_store_tells_what_it_is(folder: Path) -> None:
    write_shard(folder, ABOUT, rows(2), names(2))
    write_shard(folder, {"other": 1}, rows(2, 1), names(2))
    assert json.loads((folder / "entry.json").read_text()) == ABOUT


@pytest.mark.parametrize("exists", [True, False])
def test_store_without_shards(exists: bool, folder: Path) -> None:
    if exists:
        folder.mkdir(parents=True)
    assert open_shards(folder) == ([], 0)


def test_opening_marks_the_store_as_used(folder: Path) -> None:
    write_shard(folder, ABOUT, rows(2), names(2))
    os.utime(folder / "entry.json", (1000, 1000))
    open_shards(folder)
    assert time.time() - (folder / "entry.json").stat().st_mtime < 60


def test_store_without_its_description_still_opens(folder: Path) -> None:
    write_shard(folder, ABOUT, rows(2), names(2))
    (folder / "entry.json").unlink()
    assert len(open_shards(folder)[0]) == 1


def opened_again(folder: Path) -> tuple[list[Shard], int]:
    """As another process opens the store, that remembers nothing."""
    store._verified.clear()
    return open_shards(folder)


def assert_refused(folder: Path, name: str, damaged: bytes) -> None:
    """The damaged shard is removed, and the good one next to it is used."""
    write_shard(folder, ABOUT, rows(2, 5), names(2, 50))
    (folder / name).write_bytes(damaged)
    (shard,), count = opened_again(folder)
    assert count == 1
    assert_holds(shard, rows(2, 5), names(2, 50))
    assert not (folder / name).exists()
    assert opened_again(folder)[1] == 0


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 10_000), flipped=st.integers(1, 255))
@example(position=0, flipped=1)
@example(position=8, flipped=1)
@example(position=9_999, flipped=128)
def test_flipped_byte_anywhere_is_found(
    tmp_path_factory: pytest.TempPathFactory, content: tuple[str, bytes], position: int, flipped: int
) -> None:
    name, intact = content
    damaged = bytearray(intact)
    damaged[position % len(intact)] ^= flipped
    assert_refused(tmp_path_factory.getbasetemp() / "flipped", name, bytes(damaged))


@settings(max_examples=60, deadline=None)
@given(kept=st.integers(0, 10_000))
@example(kept=0)
@example(kept=9_999)
def test_truncated_shard_is_found(
    tmp_path_factory: pytest.TempPathFactory, content: tuple[str, bytes], kept: int
) -> None:
    name, intact = content
    assert_refused(tmp_path_factory.getbasetemp() / "truncated", name, intact[: kept % len(intact)])


@pytest.mark.parametrize("change", [lambda b: b + b"\0", lambda b: b[::-1], lambda b: b + b])
def test_shard_of_other_content_is_found(change, content: tuple[str, bytes], folder: Path) -> None:
    name, intact = content
    assert_refused(folder, name, change(intact))


def test_intact_bytes_under_a_wrong_name_are_refused(content: tuple[str, bytes], folder: Path) -> None:
    assert_refused(folder, f"{'0' * 32}.safetensors", content[1])


def test_damage_shows_within_a_process_too(folder: Path) -> None:
    write_shard(folder, ABOUT, rows(3), names(3))
    assert len(open_shards(folder)[0]) == 1
    (file,) = folder.glob("*.safetensors")
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    write_atomically(file, bytes(damaged))
    os.utime(file, (1000, 1000))
    assert open_shards(folder) == ([], 1)


def test_intact_shard_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(folder, ABOUT, rows(3), names(3))
    monkeypatch.setattr(store.hashlib, "blake2b", lambda *_, **__: pytest.fail("read again"))
    assert len(open_shards(folder)[0]) == 1


def test_leftovers_are_ignored(folder: Path) -> None:
    write_shard(folder, ABOUT, rows(3), names(3))
    (intact,) = folder.glob("*.safetensors")
    for leftover in (f".{intact.name}.abc.tmp", f".{intact.stem}.tmp", "notes.txt"):
        (folder / leftover).write_bytes(intact.read_bytes()[:100])
    shards, damaged = opened_again(folder)
    assert (len(shards), damaged) == (1, 0)
    assert len(list(folder.iterdir())) == 5


def test_shard_that_vanishes_is_not_returned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(folder, ABOUT, rows(3), names(3))
    (file,) = folder.glob("*.safetensors")
    monkeypatch.setattr(Path, "glob", lambda *_: [file, folder / "gone.safetensors"])
    shards, damaged = open_shards(folder)
    assert (len(shards), damaged) == (1, 0)


def test_open_shards_stay_readable_when_the_store_is_removed(tmp_path: Path, folder: Path) -> None:
    write_shard(folder, ABOUT, rows(3), names(3))
    (shard,), _ = open_shards(folder)
    (entry,) = entries(tmp_path)
    remove(entry)
    assert not folder.exists()
    assert_holds(shard, rows(3), names(3))


def test_write_atomically_replaces(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for text in (b"old", b"", b"new"):
        write_atomically(file, text)
        assert file.read_bytes() == text
    assert list(tmp_path.iterdir()) == [file]
    assert file.stat().st_mode & 0o777 == 0o644


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_failed_write_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomically(file, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_interrupted_write_leaves_the_old_content_and_nothing_else(
    interruption: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")

    def interrupted(*_: object) -> None:
        raise interruption

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(interruption):
            write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_failed_write_of_a_shard_adds_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(folder, ABOUT, rows(3), names(3))
    before = sorted(folder.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(store.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_shard(folder, ABOUT, rows(3, 1), names(3))
    assert sorted(folder.iterdir()) == before


DAYS = 24 * 3600


def filled(cache: Path, *ages: float) -> dict[str, int]:
    """Stores named by letters that were last used so many seconds ago; how many bytes each takes."""
    taken = {}
    for number, age in enumerate(ages):
        place = cache / "activations" / "abcdef"[number]
        write_shard(place, {"number": number}, rows(4, number), names(4))
        used = time.time() - age
        os.utime(place / "entry.json", (used, used))
        taken[place.name] = sum(file.stat().st_size for file in place.glob("*.safetensors"))
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
    assert entry.bytes == taken["a"]


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


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("123", 123),
        (123, 123),
        ("5b", 5),
        ("20GB", 20_000_000_000),
        ("20 GB", 20_000_000_000),
        (" 20 gb ", 20_000_000_000),
        ("20g", 20_000_000_000),
        ("500MB", 500_000_000),
        ("1.5k", 1500),
        ("1.5 kB", 1500),
        ("2T", 2_000_000_000_000),
        (".5GB", 500_000_000),
        ("1e3", 1000),
    ],
)
def test_sizes_as_people_write_them(text: str | int, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "text",
    ["", " ", "GB", "twenty", "20 XB", "20GiB", "20kk", "1 0GB", "20 G B", "nan", "inf", "1e999", "-5GB", "1,5GB"],
)
def test_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="is no size; write it as in 20GB or 500MB"):
        parse_bytes(text)


@given(st.text(max_size=8) | st.from_regex(r"-?[0-9.]{1,4} ?[kmgtb]{0,2}"))
def test_any_text_is_a_size_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert isinstance(parse_bytes(text), int)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"FROSTLINE_CACHE": "/a/b", "XDG_CACHE_HOME": "/x"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/frostline"),
        ({"HOME": "/home/me"}, "/home/me/.cache/frostline"),
        ({"FROSTLINE_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/home/me"}, "/home/me/.cache/frostline"),
    ],
)
def test_default_folder(variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FROSTLINE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert default_folder() == Path(expected)
