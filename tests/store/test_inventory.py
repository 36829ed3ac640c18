"""What is missing: asked once, the same picture once, and of these images."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import SIZE, draw_images, small_model
from frostline.data.images import Images
from frostline.data.views import Views
from frostline.machine import find_machine
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing
from frostline.store import inventory as module
from frostline.store.activations import computed_once, extract_above, extract_together, fill, read
from frostline.store.claims import is_claimed
from frostline.store.inventory import exclusively, take_inventory
from frostline.store.rows import Rows, row_bytes, view_names
from frostline.store.shards import Cache

HOW = Preprocessing(size=SIZE, resize=36)
LIGHT = Views(4, augment="light")
FP32 = find_machine("cpu", "fp32", 2)


def rows(views: int = 1, frostline: str = "block2") -> Rows:
    return Rows(Network(small_model(), HOW).cut(frostline)[0], Views(views), FP32)


def files(folder: Path, count: int = 5) -> Images:
    paths = [folder / f"{i}.png" for i in range(count)]
    folder.mkdir(exist_ok=True)
    for path, picture in zip(paths, draw_images(count).pictures, strict=True):
        Image.fromarray(picture).save(path)
    return Images(paths, np.arange(count), [path.name for path in paths])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.sets(st.integers(0, 3)), st.integers(1, 3))
def test_what_is_missing_is_what_nobody_stored(
    tmp_path_factory, shown: list[int], stored: set[int], views: int
) -> None:
    cache, drawn = Cache(tmp_path_factory.mktemp("cache")), draw_images(4)
    if stored:
        computed_once(rows().lower, drawn.take(np.array(sorted(stored))), machine=FP32, cache=cache)
    images = drawn.take(np.array(shown))
    inventory = take_inventory(rows(views), images, cache.folder)
    assert inventory.missing == len(set(shown) - stored) + (views - 1) * len(set(shown))
    assert inventory.found == len(shown) * views - inventory.missing
    assert inventory.missing_bytes == inventory.missing * rows().row_bytes()
    found, after = fill(inventory, cache, "")
    assert found.filled.computed == inventory.missing == sum(map(len, after.shards)) - sum(map(len, inventory.shards))
    assert after.missing == 0
    assert len(found) == len(shown) * views


def test_files_are_read_once_to_be_found_or_computed(tmp_path, monkeypatch):
    cache, known = Cache(tmp_path / "cache"), files(tmp_path / "a").take(np.array([0, 1, 3]))
    computed_once(rows().lower, known, machine=FP32, cache=cache)
    images = files(tmp_path / "b")
    reads, decoded = [], []
    original, opened = Path.read_bytes, Image.open
    monkeypatch.setattr(Path, "read_bytes", lambda path: (reads.append(path.name), original(path))[1])
    monkeypatch.setattr(Image, "open", lambda file, **more: (decoded.append(type(file)), opened(file, **more))[1])
    monkeypatch.setattr("frostline.store.inventory.SAMPLED", 0)
    found = computed_once(rows().lower, images, machine=FP32, cache=cache)
    images_read = [name for name in reads if name.endswith(".png")]
    assert sorted(images_read) == [f"{i}.png" for i in range(5)]
    assert decoded.count(io.BytesIO) == 2  # beside the samples to try engines on
    assert (found.filled.found, found.filled.computed) == (3, 2)
    assert found.targets(torch.arange(5)).tolist() == [0, 1, 2, 3, 4]


def test_digests_are_remembered_after_the_pass(tmp_path, monkeypatch):
    cache, images = Cache(tmp_path / "cache"), files(tmp_path / "a")
    monkeypatch.setattr("frostline.data.digests.SETTLED", -(10**12))
    computed_once(rows().lower, images, machine=FP32, cache=cache)
    again = Images(images.pictures, images.targets, images.names)
    assert take_inventory(rows(), again, cache.folder).missing == 0
    assert again.digests.known.all()


def test_every_view_has_a_name_of_its_own() -> None:
    digests = np.random.default_rng(0).integers(0, 256, (50, 16), np.uint8)
    some = [view_names(digests, views) for views in (LIGHT, replace(LIGHT, seed=1), Views(4, augment="digits"))]
    assert all(np.array_equal(names[:, 0], digests) for names in some)
    names = np.concatenate([digests[:, None], *(each[:, 1:] for each in some)], axis=1).reshape(-1, 16)
    assert len(np.unique(names, axis=0)) == 50 * 10


@pytest.mark.parametrize("frostline", ["stem", "block1", "head"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bytes_of_a_row_are_known_without_building_a_part(frostline, precision):
    network, machine = Network(small_model(), HOW), find_machine("cpu", precision, 2)
    cut = network.find(frostline)
    form = Rows(network.below(cut), Views(1), machine).form
    assert row_bytes(cut, machine) == form.row_bytes
    found = computed_once(network.below(cut), draw_images(2), machine=machine)
    assert found.filled.bytes == 2 * form.row_bytes


def test_F15_what_another_process_stored_meanwhile_is_found(tmp_path):
    """Each takes its inventory of an empty store; the second one to fill it computes nothing."""
    cache, images = Cache(tmp_path), draw_images(6)
    mine, other = (take_inventory(rows(), images, tmp_path) for _ in range(2))
    assert fill(other, cache, "")[0].filled.computed == 6
    found, _ = fill(mine, cache, "")
    assert (found.filled.found, found.filled.computed) == (6, 0)
    network = Network(small_model(), HOW)
    (after,) = extract_together(network, [mine], cache, "")
    assert (after.missing, after.computed) == (0, 0)
    below = rows(frostline="block1")
    base = read(fill(take_inventory(below, images, tmp_path), cache, "")[1])
    above = extract_above(base, network.between(below.lower.cut, mine.rows.lower.cut), mine, cache, "")
    assert (above.missing, above.computed) == (0, 0)


def test_shards_of_this_part_are_no_news(tmp_path, monkeypatch):
    asked, images = rows(), draw_images(9)
    train, valid = (take_inventory(asked, images.take(np.arange(*each)), tmp_path) for each in ((0, 6), (6, 9)))
    fill(train, Cache(tmp_path), "")
    monkeypatch.setattr(module, "take_inventory", lambda *_: pytest.fail("its bytes would be read again"))
    assert fill(valid, Cache(tmp_path), "")[0].filled.computed == 3


def test_the_entry_that_is_filled_is_the_one_that_is_claimed(tmp_path, monkeypatch):
    """Another network of the same key took the first entry meanwhile."""
    mine = take_inventory(rows(), draw_images(4), tmp_path)
    computed_once(rows().lower, draw_images(4), machine=FP32, cache=Cache(tmp_path))
    monkeypatch.setattr(module, "agrees", lambda *given: not given[2])
    with exclusively([mine]) as (now,):
        assert now.folder == mine.folder.with_name(f"{mine.folder.name}-1")
        assert is_claimed(now.folder)
    assert not is_claimed(now.folder)


def test_damaged_and_foreign_files_are_no_news(tmp_path):
    mine = take_inventory(rows(), draw_images(4), tmp_path)
    mine.folder.mkdir(parents=True)
    (mine.folder / f"{'1' * 32}.shard").write_bytes(b"x")
    (mine.folder / f"{'2' * 32}.shard").mkdir()
    with exclusively([mine]) as (now,):
        assert now is mine
