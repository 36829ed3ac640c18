"""Laws 3 and 4: stored equals computed, and no row is ever used for anything but what it was computed from."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import frostline
from conftest import SIZE, assert_same_state, draw_images, small_model, state_of
from frostline.data.images import Images
from frostline.data.views import Views, pixels
from frostline.errors import UsageError
from frostline.machine import find_machine, threads_kept
from frostline.network.network import Network
from frostline.network.part import Part
from frostline.preprocessing import Preprocessing, normalised
from frostline.remote import at
from frostline.store.activations import activations, computed_once, extract_together
from frostline.store.inventory import Inventory, take_inventory
from frostline.store.rows import Rows
from frostline.store.shards import Cache

module = sys.modules["frostline.store.filling"]
HOW = Preprocessing(size=SIZE, resize=36)


@pytest.fixture
def cache(tmp_path) -> Cache:
    return Cache(tmp_path / "cache")


def lower_part(frostline: str = "block2", seed: int = 0, preprocessing: Preprocessing = HOW) -> Part:
    return Network(small_model(seed), preprocessing).cut(frostline)[0]


def expected(lower: Part, images: Images, views: Views) -> torch.Tensor:
    """The plain way: decode each view, normalise it, run the network as it is."""
    pictures = [
        pixels(picture, digest, list(range(views.count)), views, lower.preprocessing)
        for picture, digest in zip(images.pictures, images.digests, strict=True)
    ]
    x = torch.from_numpy(np.concatenate(pictures)).permute(0, 3, 1, 2)
    return lower(normalised(x, lower.preprocessing))


def inventories(frostlines, images: Images, machine, cache: Cache) -> list[Inventory]:
    return [take_inventory(Rows(lower, views, machine), images, cache.folder) for lower, views in frostlines]


def together(network: Network, frostlines, images: Images, machine, cache: Cache) -> list[int]:
    """How many rows one pass adds to each."""
    before = inventories(frostlines, images, machine, cache)
    after = extract_together(network, before, cache, "")
    return [old.missing - new.missing for old, new in zip(before, after, strict=True)]


def rows_of(inputs) -> torch.Tensor:
    return torch.cat([x for x, _ in inputs.batches()])


@pytest.mark.parametrize("frostline", ["stem", "block1", "block2", "pool", "head"])
@pytest.mark.parametrize("keep", [True, False])
def test_rows_are_what_the_network_computes(frostline, keep, cache, fp32):
    lower, images, views = lower_part(frostline), draw_images(13), Views(3)
    inputs = computed_once(lower, images, views, machine=fp32, cache=cache if keep else None, keep=keep)
    assert len(inputs) == 39
    assert inputs.filled.kept == ("stored" if keep else "recomputed")
    torch.testing.assert_close(rows_of(inputs), expected(lower, images, views), rtol=1e-4, atol=1e-4)
    assert inputs[7][1] == images.targets[7 // 3]


def test_a_second_pass_computes_nothing(cache, fp32, monkeypatch):
    lower, images = lower_part(), draw_images(10)
    first = computed_once(lower, images, machine=fp32, cache=cache)
    monkeypatch.setattr(module, "fastest", lambda *_: pytest.fail("the frozen part ran again"))
    second = computed_once(lower_part(), images, machine=fp32, cache=cache)
    assert (first.filled.found, first.filled.computed) == (0, 10)
    assert (second.filled.found, second.filled.computed) == (10, 0)
    assert torch.equal(rows_of(first), rows_of(second))


def test_only_what_is_new_is_computed(cache, fp32):
    images = draw_images(10)
    computed_once(lower_part(), images.take(np.arange(7)), machine=fp32, cache=cache)
    more = computed_once(lower_part(), images, Views(2), machine=fp32, cache=cache)
    assert (more.filled.found, more.filled.computed) == (7, 13)
    torch.testing.assert_close(rows_of(more), expected(lower_part(), images, Views(2)), rtol=1e-4, atol=1e-4)


def change_nothing(lower, images, views, machine):
    return lower, images, views, machine


def change_parameter(lower, images, views, machine):
    with torch.no_grad():
        next(lower.parameters()).view(-1)[0] += 1e-3
    return lower, images, views, machine


def change_buffer(lower, images, views, machine):
    dict(lower.named_buffers())["norm.running_var"][0] += 1e-3
    return lower, images, views, machine


def change_cut(lower, images, views, machine):
    return lower_part("block1"), images, views, machine


def change_normalisation(lower, images, views, machine):
    lower.preprocessing = dataclasses.replace(HOW, mean=(0.4, 0.4, 0.4))
    return lower, images, views, machine


def change_crop(lower, images, views, machine):
    lower.preprocessing = dataclasses.replace(HOW, resize=40)
    return lower, images, views, machine


def change_interpolation(lower, images, views, machine):
    lower.preprocessing = dataclasses.replace(HOW, interpolation="bicubic")
    return lower, images, views, machine


def change_precision(lower, images, views, machine):
    return lower, images, views, dataclasses.replace(machine, precision="bf16")


def change_pixels(lower, images, views, machine):
    pictures = [picture.copy() for picture in images.pictures]
    for picture in pictures:
        picture[0, 0, 0] ^= 1
    return lower, Images(pictures, images.targets, images.names), views, machine


CHANGES = [
    change_parameter,
    change_buffer,
    change_cut,
    change_normalisation,
    change_crop,
    change_interpolation,
    change_precision,
    change_pixels,
]


@pytest.mark.parametrize("change", CHANGES)
def test_every_ingredient_is_in_the_key(change, cache, fp32):
    start = lower_part(), draw_images(4), Views(1), fp32
    lower, images, views, machine = start
    computed_once(lower, images, views, machine=machine, cache=cache)
    lower, images, views, machine = change(lower_part(), *start[1:])
    assert computed_once(lower, images, views, machine=machine, cache=cache).filled.found == 0


def test_the_decoder_is_in_the_key(cache, fp32, monkeypatch):
    computed_once(lower_part(), draw_images(4), machine=fp32, cache=cache)
    monkeypatch.setattr("frostline.store.rows.DECODER", "another")
    assert computed_once(lower_part(), draw_images(4), machine=fp32, cache=cache).filled.found == 0


@pytest.mark.parametrize("views", [Views(3, seed=1), Views(3, augment="standard"), Views(3, augment="light")])
def test_how_views_are_made_is_in_the_key_of_all_but_the_plain_one(views, cache, fp32):
    computed_once(lower_part(), draw_images(4), Views(3), machine=fp32, cache=cache)
    assert computed_once(lower_part(), draw_images(4), views, machine=fp32, cache=cache).filled.found == 4


def test_labels_and_names_are_not_in_the_key(cache, fp32):
    images = draw_images(4)
    computed_once(lower_part(), images, machine=fp32, cache=cache)
    renamed = Images(images.pictures, images.targets[::-1].copy(), ["a", "b", "c", "d"])
    assert computed_once(lower_part(), renamed, machine=fp32, cache=cache).filled.computed == 0


def test_training_the_upper_part_keeps_the_store_valid(cache, fp32):
    network = Network(small_model(), HOW)
    lower, upper = network.cut("block2")
    computed_once(lower, draw_images(4), machine=fp32, cache=cache)
    with torch.no_grad():
        for parameter in upper.parameters():
            parameter += 1
    assert computed_once(network.cut("block2")[0], draw_images(4), machine=fp32, cache=cache).filled.computed == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "garbage"])
def test_a_damaged_shard_is_removed_and_computed_again(damage, cache, fp32, capsys):
    lower, images = lower_part(), draw_images(6)
    computed_once(lower, images, machine=fp32, cache=cache)
    (shard,) = cache.folder.rglob("*.shard")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes({"flip": content, "cut": content[:-9], "empty": b"", "garbage": b"x" * 99}[damage])
    again = computed_once(lower, images, machine=fp32, cache=cache)
    assert again.filled.computed == 6
    assert "1 damaged shard" in capsys.readouterr().err
    torch.testing.assert_close(rows_of(again), expected(lower, images, Views(1)), rtol=1e-4, atol=1e-4)
    assert computed_once(lower, images, machine=fp32, cache=cache).filled.computed == 0


def test_R12_a_folder_whose_name_is_no_text_is_a_store(tmp_path, fp32, monkeypatch):
    monkeypatch.setattr("frostline.data.digests.SETTLED", -(10**12))
    cache = Cache(tmp_path / os.fsdecode(b"caf\xe9"))
    for _ in range(2):
        file = tmp_path / "0.png"
        Image.fromarray(draw_images(1).pictures[0]).save(file)
        found = computed_once(lower_part(), Images([file], np.zeros(1, np.int64), ["0"]), machine=fp32, cache=cache)
    assert (found.filled.found, found.filled.computed) == (1, 0)
    assert (cache.folder / "digests.sqlite").is_file()


@pytest.mark.parametrize("kind", [str, Path, Cache])
def test_a_store_may_be_named(kind, tmp_path):
    images, store = draw_images(6), kind(tmp_path / "store")
    found = [activations(lower_part(), images, cache=store, device="cpu").filled.computed for _ in range(2)]
    assert found == [6, 0]
    assert list((tmp_path / "store").rglob("*.shard"))


def test_a_store_may_be_a_url():
    pytest.importorskip("obstore")
    images = draw_images(6)
    found = [activations(lower_part(), images, cache="memory://named", device="cpu").filled.computed for _ in range(2)]
    assert found == [6, 0]
    assert at("memory://named").list()
    with pytest.raises(UsageError, match="two slashes"):
        activations(lower_part(), images, cache="s3:/bucket")


def test_a_full_disk_only_costs_the_store(cache, fp32, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "ShardWriter", full)
    lower, images = lower_part(), draw_images(6)
    inputs = computed_once(lower, images, machine=fp32, cache=cache)
    assert inputs.filled.kept == "memory"
    assert "No space left on device): going on without" in capsys.readouterr().err
    torch.testing.assert_close(rows_of(inputs), expected(lower, images, Views(1)), rtol=1e-4, atol=1e-4)


def test_a_cache_folder_that_is_a_file_only_costs_the_store(tmp_path, fp32, capsys):
    (tmp_path / "file").write_text("in the way")
    inputs = computed_once(lower_part(), draw_images(6), machine=fp32, cache=Cache(tmp_path / "file"))
    assert inputs.filled.kept == "memory"
    assert "going on without" in capsys.readouterr().err


def test_a_budget_too_small_is_said_and_obeyed(tmp_path, fp32, capsys):
    cache = Cache(tmp_path / "cache", budget=1000)
    inputs = computed_once(lower_part(), draw_images(6), machine=fp32, cache=cache)
    assert inputs.filled.kept == "memory"
    assert "more than the budget of 1.0 kB" in capsys.readouterr().err
    assert not list(cache.folder.rglob("*.shard"))


def test_without_disk_and_memory_rows_are_computed_when_asked_for(tmp_path, fp32, monkeypatch):
    monkeypatch.setattr(module, "MEMORY_BYTES", 1000)
    lower, images = lower_part(), draw_images(6)
    inputs = computed_once(lower, images, machine=fp32, cache=Cache(tmp_path / "cache", budget=1000))
    assert inputs.filled.kept == "recomputed"
    torch.testing.assert_close(rows_of(inputs), expected(lower, images, Views(1)), rtol=1e-4, atol=1e-4)


def test_many_shards_read_like_one(cache, fp32, monkeypatch):
    monkeypatch.setattr(module, "SHARD_BYTES", 1)
    monkeypatch.setattr("frostline.engines.eager.MOST_IMAGES", 4)
    monkeypatch.setattr("frostline.engines.choice._latest", None)
    lower, images, views = lower_part(), draw_images(30), Views(2)
    inputs = computed_once(lower, images, views, machine=fp32, cache=cache)
    assert len(list(cache.folder.rglob("*.shard"))) > 5
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(inputs.fetch(order), expected(lower, images, views)[order], rtol=1e-4, atol=1e-4)


def test_bf16_rows_are_near_and_half_the_size(cache, fp32):
    lower, images = lower_part("head"), draw_images(8)
    exact = computed_once(lower, images, machine=fp32, cache=cache)
    rough = computed_once(lower, images, machine=find_machine("cpu", "bf16", 2), cache=cache)
    assert rough.filled.bytes * 2 == exact.filled.bytes
    torch.testing.assert_close(rows_of(rough), rows_of(exact), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("keep", [True, False])
def test_unreadable_images_are_left_out_and_named(keep, tmp_path, cache, fp32):
    paths = []
    for i, picture in enumerate(draw_images(5).pictures):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(picture).save(paths[-1])
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    paths[3].write_text("no picture")
    images = Images(paths, np.arange(5), [path.name for path in paths])
    for _ in range(2):
        inputs = computed_once(lower_part(), images, Views(2), machine=fp32, cache=cache if keep else None, keep=keep)
        assert [name for name, _ in inputs.unreadable] == ["1.png", "3.png"]
        assert inputs.unreadable[1][1] == "not an image of a known format"
        assert inputs.images.names == ["0.png", "2.png", "4.png"]
        assert len(inputs) == 6
        assert inputs.targets(torch.tensor([0, 2, 4])).tolist() == [0, 2, 4]


def test_a_data_loader_takes_them_as_they_are(cache, fp32):
    inputs = computed_once(lower_part(), draw_images(10), Views(2), machine=fp32, cache=cache)
    batches = list(DataLoader(inputs, batch_size=8))
    assert [len(y) for _, y in batches] == [8, 8, 4]
    assert torch.equal(torch.cat([x for x, _ in batches]), rows_of(inputs))


def test_filling_leaves_the_network_as_it_was(cache, fp32):
    network = Network(small_model(), HOW)
    lower, _ = network.cut("head")
    before = state_of(network.model)
    computed_once(lower, draw_images(5), Views(2), machine=fp32, cache=cache)
    assert_same_state(before, network.model)


@pytest.mark.parametrize("order", [["head", "block2", "stem"], ["block1", "head"]])
def test_one_pass_serves_several_frostlines(order, cache, fp32, monkeypatch):
    network, images = Network(small_model(), HOW), draw_images(9)
    frostlines = [(network.below(network.find(name)), Views(1 if name == "head" else 3)) for name in order]
    decodings = []
    original = module.computed
    monkeypatch.setattr(module, "computed", lambda *given: decodings.append(len(given[1])) or original(*given))
    counts = together(network, frostlines, images, fp32, cache)
    assert counts == [9 if name == "head" else 27 for name in order]
    assert decodings == [9]
    for lower, views in frostlines:
        inputs = computed_once(lower, images, views, machine=fp32, cache=cache)
        assert inputs.filled.computed == 0
        torch.testing.assert_close(rows_of(inputs), expected(lower, images, views), rtol=1e-4, atol=1e-4)
    assert together(network, frostlines, images, fp32, cache) == [0] * len(order)


def test_several_frostlines_share_one_budget_and_the_first_that_fit_are_stored(tmp_path, fp32, capsys):
    network, images = Network(small_model(), HOW), draw_images(9)
    frostlines = [(network.below(network.find(name)), Views(1)) for name in ("block1", "block2", "head")]
    sizes = [computed_once(lower, images, machine=fp32).filled.bytes for lower, _ in frostlines]
    capsys.readouterr()
    budgets = {
        0: [0, 0, 0],
        sizes[2]: [0, 0, 9],
        sizes[0]: [9, 0, 0],
        sizes[0] + sizes[2]: [9, 0, 9],
        sum(sizes): [9] * 3,
    }
    for budget, stored in budgets.items():
        cache = Cache(tmp_path / str(budget), budget)
        assert together(network, frostlines, images, fp32, cache) == stored
        assert sum(file.stat().st_size for file in cache.folder.rglob("*.shard")) <= budget + 10_000 * len(sizes)
    assert capsys.readouterr().err == ""


def test_several_frostlines_give_up_quietly_where_nothing_can_be_written(cache, fp32, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "ShardWriter", full)
    network = Network(small_model(), HOW)
    frostlines = [(network.below(network.find(name)), Views(1)) for name in ("head", "block2")]
    assert together(network, frostlines, draw_images(9), fp32, cache) == [0, 0]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("broken", [False, True])
def test_reading_ahead_leaves_torch_with_as_many_threads_as_it_had(broken, fp32):
    """Of a thread that begins later: what was set is a default of the process."""
    made = computed_once(lower_part("head"), draw_images(40), machine=fp32)

    def slowly(numbers: torch.Tensor) -> torch.Tensor:
        with threads_kept():  # as rows that are computed again do
            time.sleep(0.02)
        return made.fetch(numbers)

    some = dataclasses.replace(made, fetch=slowly)

    def batches():
        yield from torch.arange(40).split(4)
        if broken:
            raise ValueError("no more")

    threads = torch.get_num_threads()
    with contextlib.suppress(ValueError):
        for number, _ in enumerate(some.ahead(batches())):
            if number == 3 and not broken:
                break
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == threads


def test_no_more_than_one_batch_is_read_ahead(fp32):
    asked = []
    made = computed_once(lower_part("head"), draw_images(40), machine=fp32)
    some = dataclasses.replace(made, fetch=lambda numbers: asked.append(1) or made.fetch(numbers))
    next(some.ahead(torch.arange(40).split(4)))
    assert len(asked) <= 2


def test_by_default_it_computes_and_stores_as_a_fit_does(own_cache):
    """Stumble 25."""
    lower, images = lower_part(), draw_images(6)
    first = frostline.activations(lower, images, precision="fp32")
    assert (first.filled.computed, first.filled.kept) == (6, "stored")
    assert frostline.Cache(frostline.default_folder()).folder == own_cache
    again = frostline.activations(lower_part(), images, precision="fp32")
    assert again.filled.computed == 0
    alone = frostline.activations(lower_part(), images, precision="fp32", cache=False)
    assert (alone.filled.computed, alone.filled.kept) == (6, "memory")
    torch.testing.assert_close(alone.fetch(torch.arange(6)), again.fetch(torch.arange(6)))


@pytest.mark.parametrize("option", [{"device": "gpu"}, {"precision": "fp8"}, {"workers": 0}])
def test_a_machine_that_there_is_not_is_refused(option):
    with pytest.raises(frostline.FrostlineError):
        frostline.activations(lower_part(), draw_images(2), **option)
