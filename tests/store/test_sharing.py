"""One bucket, several machines: the same rows as alone, nothing computed twice, whatever the bucket does."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from buckets import SECRETS, Bucket, served
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import SIZE, draw_images, small_model
from frostline.data.views import Views
from frostline.errors import MachineError, WeightsError
from frostline.machine import find_machine
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing
from frostline.remote import Remote, at
from frostline.store import sharing
from frostline.store.activations import Activations, computed_once, fill
from frostline.store.inventory import at_hand, take_inventory
from frostline.store.reading import StoredRows
from frostline.store.rows import Rows
from frostline.store.shards import Cache, cache_at, entries

pytest.importorskip("obstore", reason="the extra remote is not installed")

HOW = Preprocessing(size=SIZE, resize=36)
FP32 = find_machine("cpu", "fp32", 1)
IMAGES = draw_images(12)
number = itertools.count()


@pytest.fixture
def bucket(monkeypatch, small_blocks):
    with served(monkeypatch) as own:
        yield own


@pytest.fixture
def small_blocks(monkeypatch):
    """Shards of a few rows have several blocks, and their ends do not fit the first reading."""
    monkeypatch.setattr("frostline.store.shard_file.BLOCK", 1000)
    monkeypatch.setattr(sharing, "BLOCK", 1000)
    monkeypatch.setattr(sharing, "GUESS", 300)


def memory() -> Remote:
    return at(f"memory://sharing-{next(number)}")


def rows(views: int = 1, frostline: str = "block2") -> Rows:
    return Rows(Network(small_model(), HOW).cut(frostline)[0], Views(views), FP32)


def filled(cache: Cache | None, images=IMAGES, views: int = 1, frostline: str = "block2") -> Activations:
    """What a process of its own finds and computes."""
    asked = rows(views, frostline)
    return computed_once(asked.lower, images, Views(views), machine=FP32, cache=cache)


def values(found: Activations) -> torch.Tensor:
    return found.fetch(torch.arange(len(found)))


@pytest.fixture(scope="module")
def alone() -> torch.Tensor:
    return values(filled(None))


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 5), min_size=1)), min_size=1, max_size=5))
def test_machines_share_every_row(tmp_path_factory, alone, turns):
    folder, remote = tmp_path_factory.mktemp("machines"), memory()
    stored: set[int] = set()
    for second, chosen in turns:
        wanted = np.array(sorted(chosen))
        found = filled(Cache(folder / f"machine{second}", remote=remote), IMAGES.take(wanted))
        assert found.filled.computed == len(chosen - stored)
        assert torch.equal(values(found), alone[wanted])
        stored |= chosen
    there = sharing.shared_entries(remote)
    assert len(there) == 1
    assert there[0].about["label"] == "below block2"
    assert sharing.check_shared(remote, there[0]).intact == len(there[0].files)


def test_an_index_needs_only_the_ends_and_only_once(bucket, tmp_path, alone):
    cache = Cache(tmp_path / "b", remote=at("s3://bucket/deep"))
    filled(replace(cache, folder=tmp_path / "a"))
    bucket.asked.clear()
    taken = take_inventory(rows(), IMAGES, cache.folder, cache.remote)
    assert taken.missing == 0
    (size,) = (len(content) for name, content in bucket.files.items() if name.endswith(".shard"))
    assert size > 12 * rows().row_bytes() > 10_000
    assert bucket.counted("GET", ".shard") == 2 + 4 + 1  # the end, blocks with the rows that are compared
    assert not list(cache.folder.rglob("*.shard"))
    bucket.asked.clear()
    lower = taken.rows.lower
    again = take_inventory(Rows(lower, Views(1), FP32), IMAGES, cache.folder, cache.remote)
    assert again.missing == 0
    assert [method for method, _ in bucket.asked] == ["LIST"]


def test_fetched_shards_are_whole_and_used_without_the_bucket(bucket, tmp_path, alone):
    cache = Cache(tmp_path / "b", remote=at("s3://bucket"))
    filled(replace(cache, folder=tmp_path / "a"))
    found = filled(cache)
    assert found.filled.computed == 0
    names = {path.name: path.read_bytes() for path in tmp_path.glob("a/*/*/*.shard")}
    assert names == {path.name: path.read_bytes() for path in tmp_path.glob("b/*/*/*.shard")}
    bucket.fault = lambda *_: 503
    assert torch.equal(values(found), alone)
    assert torch.equal(values(filled(replace(cache, remote=None))), alone)
    assert entries(cache.folder)[0].about["label"] == "below block2"


def test_rows_without_room_are_read_block_by_block(bucket, tmp_path, alone):
    cache = Cache(tmp_path / "b", remote=at("s3://bucket"))
    filled(replace(cache, folder=tmp_path / "a"))
    found = filled(replace(cache, budget=1000))
    assert found.filled.computed == 0
    assert isinstance(found.fetch, StoredRows)
    assert not list(cache.folder.rglob("*.shard"))
    assert torch.equal(found.fetch.once(torch.tensor([11, 3, 4])), alone[[11, 3, 4]])
    assert torch.equal(values(found), alone)


@pytest.mark.parametrize("frostline", ["block2", "head", "stem"])
def test_a_budget_smaller_than_the_rows_holds_a_shard_or_two(tmp_path, frostline):
    remote, size = memory(), 12 * 2 * rows(2, frostline).row_bytes()
    budget = size // 2 + 20_000  # their names and descriptions
    found = filled(Cache(tmp_path / "a", budget=budget, remote=remote), views=2, frostline=frostline)
    assert found.filled.kept == "stored"
    assert sum(entry.bytes for entry in entries(tmp_path / "a")) <= budget
    assert torch.equal(values(found), values(filled(None, views=2, frostline=frostline)))
    other = filled(Cache(tmp_path / "b", remote=remote), views=2, frostline=frostline)
    assert other.filled.computed == 0


def faulted(bucket: Bucket, fault, ending: str = ".shard", times: int = 1):
    """Make the next answers of one kind fail."""
    left = [fault] * times

    def fails(method, name, content):
        hit = method == "GET" and name.endswith(ending) and left
        return (left.pop(), content)[0] if hit else None

    bucket.fault = fails
    return left


@pytest.mark.parametrize("fault", [503, "cut", 0.3, b"short", b"x" * 1000], ids=str)
@pytest.mark.parametrize("times", [1, 2])
def test_answers_that_fail_for_a_while_only_take_time(bucket, tmp_path, alone, fault, times):
    cache = Cache(tmp_path / "b", remote=at("s3://bucket"))
    filled(replace(cache, folder=tmp_path / "a"))
    taken = take_inventory(rows(), IMAGES, cache.folder, cache.remote)
    left = faulted(bucket, fault, times=times)
    found, _ = fill(taken, cache, "")
    assert not left
    assert found.filled.computed == 0
    assert torch.equal(values(found), alone)


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("place", [0.02, 0.5, 0.97, 0.999, "gone", "cut", "empty"])
def test_a_shard_that_was_damaged_in_the_bucket_is_computed_anew_and_mended(bucket, tmp_path, alone, place, caplog):
    cache = Cache(tmp_path / "b", remote=at("s3://bucket"))
    filled(replace(cache, folder=tmp_path / "a"))
    (name,) = (name for name in bucket.files if name.endswith(".shard"))
    content = bucket.files[name]
    if place == "gone":
        del bucket.files[name]
        bucket.fault = lambda *_: None
    else:
        changed = {"cut": content[:-100], "empty": b""}
        bucket.files[name] = changed[place] if place in changed else flipped(content, int(len(content) * place))
    assert torch.equal(values(filled(cache)), alone)
    third = filled(replace(cache, folder=tmp_path / "c"))
    assert third.filled.computed == 0, "what was computed anew was not sent"
    assert torch.equal(values(third), alone)


def test_a_shard_that_is_lost_after_it_was_listed(bucket, tmp_path, alone):
    cache = Cache(tmp_path / "b", remote=at("s3://bucket"))
    filled(replace(cache, folder=tmp_path / "a"))
    listed = take_inventory(rows(), IMAGES, cache.folder, cache.remote)
    (name,) = (name for name in bucket.files if name.endswith(".shard"))
    del bucket.files[name]
    found, _ = fill(listed, cache, "")
    assert found.filled.computed == 12
    assert torch.equal(values(found), alone)
    assert any(name.endswith(".shard") for name in bucket.files)


def test_rows_that_are_lost_in_the_middle_of_training_end_it_with_a_way_on(bucket, tmp_path, alone):
    cache = Cache(tmp_path / "b", budget=1000, remote=at("s3://bucket"))
    filled(replace(cache, folder=tmp_path / "a", budget=10**9))
    found = filled(cache)
    sharing._block.cache_clear()
    (name,) = (name for name in bucket.files if name.endswith(".shard"))
    bucket.files[name] = flipped(bucket.files[name], 2000)
    with pytest.raises(WeightsError, match=r"lost or damaged meanwhile \(s3://bucket/.* has changed\); run the command"):
        values(found)
    assert torch.equal(values(filled(replace(cache, budget=10**9))), alone)


def test_a_bucket_that_takes_nothing_leaves_rows_here_until_it_does(bucket, tmp_path, alone, caplog):
    bucket.fault = lambda method, *_: 403 if method == "PUT" else None
    cache = Cache(tmp_path / "a", remote=at("s3://bucket"))
    with caplog.at_level("INFO", "frostline"):
        found = [filled(cache, IMAGES.take(np.arange(*part))) for part in ((0, 6), (6, 12))]
    assert torch.equal(torch.cat([values(each) for each in found]), alone)
    said = [line for line in caplog.messages if "forbidden" in line]
    assert len(said) == 1
    assert "new rows stay in" in said[0]
    assert bucket.counted("PUT") == 1
    bucket.fault = lambda *_: None
    del found
    assert filled(Cache(tmp_path / "a", remote=at("s3://bucket")), IMAGES.take(np.arange(6))).filled.computed == 0
    assert sum(name.endswith(".shard") for name in bucket.files) == 1, "only the shards that are used are sent"
    assert filled(Cache(tmp_path / "c", remote=cache.remote)).filled.computed == 6


def test_a_bucket_that_takes_nothing_and_a_small_budget_keep_rows_in_memory(bucket, tmp_path, alone):
    bucket.fault = lambda method, *_: 403 if method == "PUT" else None
    budget = 6 * rows().row_bytes()
    found = filled(Cache(tmp_path / "a", budget=budget, remote=at("s3://bucket")))
    assert torch.equal(values(found), alone)
    assert sum(entry.bytes for entry in entries(tmp_path / "a")) <= budget + 20_000


@pytest.mark.parametrize("fault", [503, 403, 401, 9.0], ids=str)
def test_a_bucket_that_cannot_be_read_ends_it_before_hours_of_work(bucket, tmp_path, fault, monkeypatch):
    bucket.fault = lambda *_: fault
    monkeypatch.setattr("frostline.remote.REQUEST", "100ms")
    started = time.monotonic()
    with pytest.raises(MachineError, match=r"cannot list s3://bucket/x") as caught:
        cache_at("s3://bucket/x")
    assert caught.value.exit_code == 7
    assert not any(secret in str(caught.value) for secret in SECRETS)
    assert time.monotonic() - started < 5


def test_other_files_in_the_bucket_are_left_alone(tmp_path, alone):
    remote = memory()
    filled(Cache(tmp_path / "a", remote=remote))
    ((key, files, _),) = ((entry.name, entry.files, entry.about) for entry in sharing.shared_entries(remote))
    others = [f"activations/{key}/notes.txt", f"activations/{key}/old/{next(iter(files))}", "activations/x", "y"]
    for name in others:
        remote.put(name, b"mine")
    assert filled(Cache(tmp_path / "b", remote=remote)).filled.computed == 0
    assert [entry.name for entry in sharing.shared_entries(remote)] == [key]
    assert all(remote.get(name) == b"mine" for name in others)


def test_a_damaged_end_on_this_machine_is_read_again(bucket, tmp_path, alone):
    cache = Cache(tmp_path / "b", budget=1000, remote=at("s3://bucket"))
    filled(replace(cache, folder=tmp_path / "a", budget=10**9))
    filled(cache)
    (end,) = cache.folder.rglob("*.end")
    for content in (b"", flipped(end.read_bytes(), 20), flipped(end.read_bytes(), -40)):
        end.write_bytes(content)
        assert torch.equal(values(filled(cache)), alone)


def test_rows_of_another_network_under_the_same_key_are_not_used(tmp_path, alone, monkeypatch):
    remote = memory()
    with monkeypatch.context() as changed:
        changed.setattr(Rows, "key", lambda self: "0" * 32)
        changed.setattr("frostline.store.net.sketch", lambda part: [1.0])
        changed.setattr("frostline.store.filling.sketch", lambda part: [1.0])
        filled(Cache(tmp_path / "a", remote=remote))
    monkeypatch.setattr(Rows, "key", lambda self: "0" * 32)
    found = filled(Cache(tmp_path / "b", remote=remote))
    assert found.filled.computed == 12
    assert torch.equal(values(found), alone)
    assert {entry.name for entry in sharing.shared_entries(remote)} == {"0" * 32, "0" * 32 + "-1"}


def test_rows_of_other_data_are_not_sent(tmp_path):
    remote, private = memory(), draw_images(3, seed=9)
    filled(Cache(tmp_path / "a"), private)
    filled(Cache(tmp_path / "a", remote=remote))
    assert filled(Cache(tmp_path / "b", remote=remote)).filled.computed == 0
    assert filled(Cache(tmp_path / "b", remote=remote), private).filled.computed == 3


def test_what_is_at_hand_without_a_bucket_is_the_inventory(tmp_path):
    taken = take_inventory(rows(), IMAGES, tmp_path)
    assert at_hand(taken, Cache(Path(tmp_path))) is taken
    assert at_hand(taken, None) is taken
