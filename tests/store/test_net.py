"""The net under the key: rows of another network are not used although the key says so, and rows that agree are."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import SIZE, draw_images, small_model
from frostline.data.images import Images
from frostline.data.views import Views
from frostline.machine import find_machine
from frostline.network.network import Network
from frostline.network.part import Part
from frostline.preprocessing import Preprocessing
from frostline.store import net
from frostline.store.activations import computed_once
from frostline.store.rows import Rows
from frostline.store.shards import Cache

HOW = Preprocessing(size=SIZE, resize=36)
FP32 = find_machine("cpu", "fp32", 2)


@pytest.fixture
def cache(tmp_path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture(autouse=True)
def one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that sees no difference between any two networks."""
    monkeypatch.setattr(Rows, "key", lambda rows: f"{rows.row_bytes():032}")


def lower_part(seed: int = 0, change: float = 0.0, frostline: str = "block2") -> Part:
    model = small_model(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1 + change
    return Network(model, HOW).cut(frostline)[0]


def rows_of(found) -> torch.Tensor:
    return torch.cat([x for x, _ in found.batches()])


def folders(cache: Cache) -> list[str]:
    return sorted(path.name[32:] for path in (cache.folder / "activations").iterdir())


def sketches_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only rows are compared."""
    monkeypatch.setattr(net, "sketch", lambda _: [1.0])


@pytest.mark.parametrize("by", ["sketch", "rows"])
def test_rows_of_another_network_are_kept_apart(by, cache, capsys, monkeypatch):
    images = draw_images(12)
    if by == "rows":
        sketches_are_alike(monkeypatch)
        monkeypatch.setattr("frostline.store.filling.sketch", lambda _: [1.0])
    first = rows_of(computed_once(lower_part(0), images, machine=FP32, cache=cache))
    capsys.readouterr()
    other = computed_once(lower_part(1), images, machine=FP32, cache=cache)
    assert (other.filled.found, other.filled.kept) == (0, "stored")
    assert capsys.readouterr().err.count("this network computes others") == 1
    torch.testing.assert_close(
        rows_of(other), rows_of(computed_once(lower_part(1), images, machine=FP32)), rtol=1e-4, atol=1e-4
    )
    assert folders(cache) == ["", "-1"]
    for seed, right in ((0, first), (1, rows_of(other)), (0, first)):
        again = computed_once(lower_part(seed), images, machine=FP32, cache=cache)
        assert again.filled.computed == 0
        assert torch.equal(rows_of(again), right)


def test_another_network_is_seen_where_no_image_is_common(cache):
    computed_once(lower_part(0), draw_images(6), machine=FP32, cache=cache)
    computed_once(lower_part(1), draw_images(6, seed=1), machine=FP32, cache=cache)
    assert folders(cache) == ["", "-1"]
    both = Images([*draw_images(6).pictures, *draw_images(6, seed=1).pictures], np.zeros(12, np.int64), ["x"] * 12)
    assert computed_once(lower_part(0), both, machine=FP32, cache=cache).filled.found == 6


@pytest.mark.parametrize("number", ["a", None, [1.0], {}, 10**400], ids=["text", "null", "list", "object", "huge"])
def test_a_sketch_that_is_no_numbers_is_that_of_another_network(number, cache, monkeypatch):
    images = draw_images(6)
    monkeypatch.setattr("frostline.store.filling.sketch", lambda part: [number] * len(net.sketch(part)))
    computed_once(lower_part(), images, machine=FP32, cache=cache)
    assert computed_once(lower_part(), images, machine=FP32, cache=cache).filled.found == 0


@pytest.mark.parametrize(("change", "kept_apart"), [(1e-7, False), (0.05, True)])
def test_what_agrees_to_tolerance_serves(change, kept_apart, cache):
    """As rows of another device or version of torch do."""
    computed_once(lower_part(), draw_images(8), machine=FP32, cache=cache)
    found = computed_once(lower_part(change=change), draw_images(8), machine=FP32, cache=cache)
    assert (found.filled.found == 0) == kept_apart


def test_every_provenance_is_compared(cache, monkeypatch):
    lower, images = lower_part(), draw_images(20)
    computed_once(lower, images.take(np.arange(19)), machine=FP32, cache=cache)
    monkeypatch.setattr("frostline.store.filling.provenance", lambda *_: {"engine": "another"})
    monkeypatch.setattr("frostline.store.filling.sketch", lambda _: net.sketch(lower))
    computed_once(lower_part(1), images.take(np.array([19])), machine=FP32, cache=Cache(cache.folder.parent / "b"))
    shard = next((cache.folder.parent / "b").rglob("*.shard"))
    shutil.copy(shard, next(cache.folder.rglob("*.shard")).parent)
    assert computed_once(lower_part(), images, machine=FP32, cache=cache).filled.found == 0


def test_a_part_is_compared_once(cache, monkeypatch):
    computed_once(lower_part(), draw_images(5), machine=FP32, cache=cache)
    lower = lower_part()
    compared = []
    original = net._same
    monkeypatch.setattr(net, "_same", lambda *args: (compared.append(1), original(*args))[1])
    for _ in range(3):
        assert computed_once(lower, draw_images(5), machine=FP32, cache=cache).filled.found == 5
    assert len(compared) == 1


def test_stored_pictures_are_compared_with_pictures(cache):
    lower, images = lower_part(frostline="stem"), draw_images(5)
    assert lower.is_image
    computed_once(lower, images, machine=FP32, cache=cache)
    assert computed_once(lower_part(frostline="stem"), images, machine=FP32, cache=cache).filled.found == 5


def test_where_no_image_can_be_read_the_sketch_decides_and_nothing_is_said(tmp_path, cache, capsys):
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for file, picture in zip(files, draw_images(4).pictures, strict=True):
        Image.fromarray(picture).save(file)
    images = Images(files, np.zeros(4, np.int64), ["a", "b", "c", "d"])
    computed_once(lower_part(), images, machine=FP32, cache=cache)
    for file in files:
        file.unlink()
    found = computed_once(lower_part(), images, machine=FP32, cache=cache)
    assert (found.filled.computed, found.filled.found) == (0, 4)
    assert capsys.readouterr().err == ""


def test_rows_in_a_low_precision_are_compared_with_what_that_precision_gives(cache, monkeypatch):
    bf16 = find_machine("cpu", "bf16", 2)
    computed_once(lower_part(), draw_images(6), Views(2), machine=bf16, cache=cache)
    monkeypatch.setattr(net, "TOLERANCES", {"bf16": 1e-9})
    found = computed_once(lower_part(), draw_images(6), Views(2), machine=bf16, cache=cache)
    assert found.filled.found == 12


def test_a_sketch_is_the_same_in_every_process_and_small():
    part = lower_part()
    again = lower_part()
    assert net.sketch(part) == net.sketch(again)
    assert len(json.dumps(net.sketch(part))) < 8_000
    assert net.sketch(part) != net.sketch(lower_part(1))


@pytest.mark.long
def test_comparing_costs_little_for_the_default_backbone(cache):
    from frostline.backbones import load_backbone

    backbone = load_backbone()
    images = draw_images(40)
    network = backbone.network(3)
    computed_once(network.below(network.find("head")), images, machine=FP32, cache=cache)
    rows = Rows(network.below(network.find("head")), Views(1), FP32)
    del rows
    started = time.perf_counter()
    assert computed_once(network.below(network.find("head")), images, machine=FP32, cache=cache).filled.found == 40
    whole = time.perf_counter() - started
    started = time.perf_counter()
    net._outputs(network.below(network.find("head")), np.zeros((32, 224, 224, 3), np.uint8))
    assert whole < 2 * (time.perf_counter() - started) + 0.5  # about a dozen pictures, counted in pictures


def test_the_machine_is_no_part_of_what_is_compared(cache):
    computed_once(lower_part(), draw_images(5), machine=FP32, cache=cache)
    other = dataclasses.replace(FP32, workers=1)
    assert computed_once(lower_part(), draw_images(5), machine=other, cache=cache).filled.found == 5


def test_the_pictures_that_stand_for_all_are_always_the_same():
    """Else the outputs for them would say of every stored row that another network made it."""
    drawn = net._drawn(20)
    assert drawn.shape == (2, 20, 20, 3)
    assert hashlib.sha256(drawn.tobytes()).hexdigest()[:16] == "311c332142a0acda"
