"""Rows come alike whichever way they come, also to a worker of a DataLoader."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from conftest import SIZE, draw_images, small_model
from frostline.data.images import Images
from frostline.data.views import Views
from frostline.errors import DataError
from frostline.machine import Machine, find_machine
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing
from frostline.store import activations as module
from frostline.store import reading
from frostline.store.activations import Activations, computed_once, from_lower_cut
from frostline.store.reading import ComputedRows, HeldRows, RowsAbove, StoredRows
from frostline.store.shard_file import DamagedError, Form, Held, ShardWriter
from frostline.store.shards import Cache

HOW = Preprocessing(size=SIZE, resize=36)
WAYS = {"stored": StoredRows, "memory": StoredRows, "above": RowsAbove, "computed": ComputedRows, "at hand": HeldRows}


@pytest.fixture(params=["fp32", "bf16"])
def machine(request: pytest.FixtureRequest) -> Machine:
    return find_machine("cpu", request.param, 2)


def rows(way: str, machine: Machine, tmp_path, images: Images | None = None) -> Activations:
    network, views = Network(small_model(), HOW), Views(2)
    images = draw_images(11) if images is None else images
    lower, _ = network.cut("block2")
    cache = Cache(tmp_path / "cache")
    if way == "above":
        cut = network.find("block1")
        base = computed_once(network.below(cut), images, views, machine=machine, cache=cache)
        return from_lower_cut(base, network.between(cut, lower.cut), machine)
    keep = way in ("stored", "memory")
    found = computed_once(lower, images, views, machine=machine, cache=cache if way == "stored" else None, keep=keep)
    return found.in_memory() if way == "at hand" else found


@pytest.mark.parametrize("way", WAYS)
def test_rows_are_of_the_same_kind_whichever_way_they_come(way, machine, tmp_path):
    found, right = rows(way, machine, tmp_path), rows("memory", machine, tmp_path)
    assert isinstance(found.fetch, WAYS[way])
    numbers = torch.tensor([3, 21, 3, 0])
    some = found.fetch(numbers)
    assert (some.dtype, some.device.type, some.shape) == (torch.float32, "cpu", right.fetch(numbers).shape)
    tolerance = 1e-4 if machine.precision == "fp32" else 0.05
    torch.testing.assert_close(some, right.fetch(numbers), rtol=tolerance, atol=tolerance)
    assert torch.equal(found.targets(numbers), right.targets(numbers))
    (x, y), _ = found.__getitems__([4, 5])
    assert torch.equal(x, found[4][0])
    assert y == found[4][1] == int(found.images.targets[2])


def test_what_is_read_once_is_not_kept(machine, tmp_path):
    found = rows("stored", machine, tmp_path)
    numbers = torch.tensor([3, 21, 3, 0])
    once = found.fetch.once(numbers)
    assert found.fetch._whole is None
    assert torch.equal(once, found.fetch(numbers))
    assert torch.equal(once, found.fetch.once(numbers))


@pytest.mark.parametrize("way", ["stored", "memory"])
def test_a_spawned_worker_reads_them(way, tmp_path):
    found = rows(way, find_machine("cpu", "fp32", 2), tmp_path)
    right = found.fetch(torch.arange(22))
    loader = DataLoader(found, batch_size=16, num_workers=1, multiprocessing_context="spawn")
    batches = list(loader)
    assert torch.equal(torch.cat([x for x, _ in batches]), right)
    assert torch.equal(torch.cat([y for _, y in batches]), found.targets(torch.arange(22)))


@pytest.mark.parametrize("few", [True, False])
def test_stored_rows_survive_pickling_before_and_after_they_were_read(few, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "TENSOR_BYTES", 10**9 if few else 0)
    found = rows("stored", find_machine("cpu", "fp32", 2), tmp_path)
    fresh = pickle.loads(pickle.dumps(found.fetch))
    right = found.fetch(torch.arange(22))
    assert torch.equal(fresh(torch.arange(22)), right)
    assert torch.equal(pickle.loads(pickle.dumps(found.fetch))(torch.arange(22)), right)
    assert (found.fetch.shards == ()) == few


@pytest.mark.parametrize("few", [True, False])
def test_rows_of_several_shards_are_read_in_any_order(few, monkeypatch):
    monkeypatch.setattr(reading, "TENSOR_BYTES", 1000 if few else 0)
    whole = torch.arange(18.0).view(9, 2)
    places = np.array([8, 0, 4, 4, 2, 7, 3])
    stored = StoredRows([Held(whole[:2]), Held(whole[2:3]), Held(whole[3:])], places, Form("", (2,), "float32"), None)
    assert torch.equal(stored(torch.tensor([6, 0, 1, 5, 4])), whole[[3, 8, 0, 7, 2]])


def test_rows_that_are_computed_again_say_that_they_stay(tmp_path):
    for way in ("above", "computed"):
        found = rows(way, find_machine(), tmp_path)
        with pytest.raises(TypeError, match="cannot be sent to another process; for workers use a store"):
            pickle.dumps(found.fetch)


def test_many_threads_read_the_same_rows(tmp_path, monkeypatch):
    found = rows("stored", find_machine("cpu", "fp32", 2), tmp_path)
    reads = []
    original = StoredRows._read
    monkeypatch.setattr(StoredRows, "_read", lambda *args: (reads.append(1), original(*args))[1])
    results: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: results.append(found.fetch(torch.arange(22)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(torch.equal(result, results[0]) for result in results)
    assert len(reads) == 1


def test_rows_at_hand_are_held_once_and_only_where_memory_holds_them(monkeypatch):
    lower = Network(small_model(), HOW).cut("block2")[0]
    found = computed_once(lower, draw_images(9), keep=False)
    size = 9 * found.fetch(torch.arange(1)).nbytes
    monkeypatch.setattr(module, "MEMORY_BYTES", size - 1)
    assert found.in_memory() is found
    monkeypatch.setattr(module, "MEMORY_BYTES", size)
    held = found.in_memory()
    assert held.fetch.rows.untyped_storage().nbytes() == size
    torch.testing.assert_close(held.fetch(torch.arange(9)), found.fetch(torch.arange(9)))


def test_a_file_that_goes_during_a_fit_is_named(tmp_path):
    files = []
    for i, picture in enumerate(draw_images(4).pictures):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(picture).save(files[-1])
    images = Images(files, np.zeros(4, np.int64), [file.name for file in files])
    found = computed_once(Network(small_model(), HOW).cut("block2")[0], images, keep=False)
    files[2].unlink()
    found.fetch(torch.tensor([0, 1, 3]))
    with pytest.raises(DataError, match=r"2\.png can no longer be read: .*put it back, or use a store"):
        found.fetch(torch.arange(4))


@pytest.mark.parametrize("seekable", [True, False])
@pytest.mark.parametrize("numbers", [range(2, 9), range(6), range(5, 15), [7, 8, 10], [9, 8, 7], [3], [], range(15)])
def test_rows_in_order_are_read_as_any_others(tmp_path, monkeypatch, numbers, seekable):
    if not seekable:
        monkeypatch.delattr("os.preadv")
        monkeypatch.delattr("os.pread")
    form, values = Form("key", (3,), "float32"), torch.arange(45.0).view(15, 3)
    shards = []
    for part in values.split([6, 5, 4]):
        writer = ShardWriter(tmp_path, form, {}, [])
        writer.add(part, np.zeros((len(part), 16), np.uint8))
        shards.append(writer.close())
    monkeypatch.setattr(reading, "TENSOR_BYTES", 0)
    fetch = StoredRows(shards, np.arange(15), form, None)
    assert torch.equal(fetch(torch.tensor(list(numbers), dtype=torch.int64)), values[list(numbers)])


def test_a_shard_that_was_cut_while_it_is_open_is_noticed(tmp_path):
    form = Form("key", (300,), "float32")
    writer = ShardWriter(tmp_path, form, {}, [])
    writer.add(torch.zeros(40, 300), np.zeros((40, 16), np.uint8))
    shard = writer.close()
    with shard.path.open("rb+") as stream:
        stream.truncate(2000)
    for numbers in (np.arange(40), np.arange(0, 40, 2)):
        with pytest.raises(DamagedError, match="too short"):
            shard.read(numbers)
