"""A pass in blocks gives the rows of a pass in one piece, whoever computes which block."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import frostline
from conftest import SIZE, draw_images, small_model, write_photos
from frostline.cluster import Cluster, Slots
from frostline.data.images import Images
from frostline.data.parts import Part as PartOfFile
from frostline.data.views import PLAIN, Views
from frostline.errors import MachineError
from frostline.machine import find_machine
from frostline.network.network import Network
from frostline.network.part import Part
from frostline.preprocessing import Preprocessing
from frostline.store import blocks
from frostline.store.activations import Activations, computed_once
from frostline.store.blocks import Pass, Receipt
from frostline.store.shards import Cache

HOW = Preprocessing(size=SIZE, resize=36)
ELSEWHERE = Cluster("ray")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Blocks are computed in this process, from what would travel; the list collects it."""
    travelled: list[Any] = []

    def here(
        _: Cluster, work: Callable[[Any, Any], Receipt], common: Pass, blocks: Iterable[np.ndarray], argument: Any
    ) -> Iterator[tuple[np.ndarray, Receipt]]:
        common = pickle.loads(pickle.dumps(common))
        for numbers in blocks:
            block = pickle.loads(pickle.dumps(argument(numbers, Slots(2, 1, 0))))
            travelled.append((common, block))
            yield numbers, pickle.loads(pickle.dumps(work(common, block)))

    monkeypatch.setattr(blocks, "on_nodes", here)
    monkeypatch.setattr(blocks, "slots_of", lambda _: Slots(2, 1, 0))
    monkeypatch.setattr(blocks, "SMALLEST", 3)
    return travelled


def lower_of(stage: str = "head", seed: int = 0) -> Part:
    return Network(small_model(seed), HOW).cut(stage)[0]


def stored(folder: Path, images: Images, views: Views = PLAIN, stage: str = "head", on: bool = True) -> Activations:
    machine = replace(find_machine("cpu", "fp32", 2), cluster=ELSEWHERE if on else None)
    return computed_once(lower_of(stage), images, views, machine=machine, cache=Cache(folder))


def rows_of(found: Activations) -> torch.Tensor:
    return found.fetch(torch.arange(len(found)))


@pytest.mark.parametrize(("stage", "views"), [("head", 1), ("head", 3), ("block2", 2), ("stem", 2)])
def test_blocks_give_the_rows_of_one_pass(stage, views, sent, tmp_path):
    one = stored(tmp_path / "one", draw_images(17), Views(views), stage, on=False)
    many = stored(tmp_path / "many", draw_images(17), Views(views), stage)
    assert len(sent) == 6
    assert torch.equal(rows_of(many), rows_of(one))
    assert (many.filled.computed, many.filled.kept) == (17 * views, "stored")
    again = stored(tmp_path / "many", draw_images(17), Views(views), stage)
    assert (again.filled.computed, len(sent)) == (0, 6)


def test_what_travels_is_small_and_says_nothing_of_labels(sent, tmp_path):
    photos = write_photos(tmp_path / "photos", 6)
    images = frostline.read_data(photos).train
    stored(tmp_path / "store", images)
    for _, block in sent:
        assert len(pickle.dumps(block)) < 2_000
        assert not block.images.targets.any()
        assert all(path.is_absolute() for path in block.images.pictures)


@pytest.mark.parametrize(
    ("picture", "sent_as"),
    [
        (Path("a/b.jpg"), Path.cwd() / "a/b.jpg"),
        (PartOfFile("a/", "b.tar", 512, 9), PartOfFile(f"{Path.cwd()}/a/", "b.tar", 512, 9)),
        (PartOfFile("/a/", "b.tar", 512, 9), PartOfFile("/a/", "b.tar", 512, 9)),
        (PartOfFile("s3://a/", "b.jpg", -1, 0), PartOfFile("s3://a/", "b.jpg", -1, 0)),
        (b"content", b"content"),
    ],
)
def test_pictures_mean_the_same_in_another_folder(picture, sent_as):
    assert blocks._absolute(picture) == sent_as


def test_only_missing_rows_are_computed(sent, tmp_path):
    images = draw_images(12)
    stored(tmp_path, images.take(np.arange(5)), on=False)
    found = stored(tmp_path, images)
    assert found.filled.computed == 7
    assert sum(len(block.images) for _, block in sent) == 7


def test_nodes_look_for_rows_of_images_that_the_sender_has_not_read(sent, tmp_path):
    """After a kill the digests of its blocks are lost, but not their rows."""
    photos = write_photos(tmp_path / "photos", 8)
    first = stored(tmp_path / "store", frostline.read_data(photos).train, on=False)
    (tmp_path / "store" / "digests.sqlite").unlink(missing_ok=True)
    again = stored(tmp_path / "store", frostline.read_data(photos).train)
    assert all(common.looks for common, _ in sent)
    assert again.filled.computed == 0
    assert torch.equal(rows_of(again), rows_of(first))


def test_digests_come_back_so_that_no_file_is_read_again(sent, tmp_path, monkeypatch):
    photos = write_photos(tmp_path / "photos", 8)
    for file in photos.rglob("*.png"):
        os.utime(file, (1e9, 1e9))
    images = frostline.read_data(photos).train
    found = stored(tmp_path / "store", images)
    assert images.digests.known.all()
    assert found.filled.computed == len(images)


def test_an_unreadable_image_costs_itself(sent, tmp_path):
    photos = write_photos(tmp_path / "photos", 8)
    images = frostline.read_data(photos).train
    broken = sorted(str(path) for path in images.pictures)[3]
    Path(broken).write_bytes(b"no image")
    found = stored(tmp_path / "store", images)
    assert len(found) == len(images) - 1
    assert found.unreadable == [(next(n for n in images.names if broken.endswith(n)), "not an image of a known format")]


def test_an_image_that_no_process_survives_is_named(sent, tmp_path, monkeypatch):
    inner = blocks.on_nodes

    def without_five(*arguments: Any) -> Iterator[tuple[np.ndarray, Receipt | None]]:
        for numbers, receipt in inner(*arguments[:3], [np.array([n]) for n in range(8)], arguments[4]):
            yield numbers, None if 5 in numbers else receipt

    images = draw_images(8)
    stored(tmp_path / "but", images.take(np.array([5])), on=False)
    monkeypatch.setattr(blocks, "on_nodes", without_five)
    monkeypatch.setattr(blocks, "compute", lambda common, block: _but_five(common, block, images))
    found = stored(tmp_path / "store", images)
    assert found.unreadable == [(images.names[5], blocks.LOST)]
    assert len(found) == 7


_compute = blocks.compute


def _but_five(common: Pass, block: blocks.Block, images: Images) -> Receipt:
    if images.digests[5] in block.images.digests:
        return Receipt(block.images.digests.values, block.images.digests.known, {}, 0)
    return _compute(common, block)


def test_rows_that_the_sender_cannot_see_are_told(sent, tmp_path, monkeypatch):
    def elsewhere(common: Pass, block: blocks.Block) -> Receipt:
        return _compute(replace(common, cache=Cache(tmp_path / "of the node")), block)

    monkeypatch.setattr(blocks, "compute", elsewhere)
    with pytest.raises(MachineError, match="computed 9 images whose rows are not in .*name a folder or a bucket"):
        stored(tmp_path / "store", draw_images(9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "0.0.9"}, "has Frostline .*, and the process that asks has 0.0.9; install the same one"),
        ({"keys": ("0" * 32,)}, "would compute other activations: another version of Pillow"),
    ],
)
def test_nodes_that_would_compute_other_rows_are_refused(change, message, sent, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "compute", lambda common, block: _compute(replace(common, **change), block))
    with pytest.raises(MachineError, match=f"the node .*{message}"):
        stored(tmp_path, draw_images(4))
    assert not list(tmp_path.rglob("*.shard"))


def test_a_node_without_room_is_told(sent, tmp_path, monkeypatch):
    def full(common: Pass, block: blocks.Block) -> Receipt:
        return _compute(replace(common, cache=Cache(common.cache.folder, budget=1)), block)

    monkeypatch.setattr(blocks, "compute", full)
    with pytest.raises(MachineError, match=r"the node .* has no room for rows in .*; free space there"):
        stored(tmp_path, draw_images(4))


def test_images_that_only_this_process_can_read_are_computed_here(sent, tmp_path):
    class Own:
        def __len__(self) -> int:
            return 6

        def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
            return np.full((40, 40, 3), 40 * number, np.uint8), number % 2

    images = frostline.read_data(Own()).train
    assert stored(tmp_path, images).filled.computed == len(images)
    assert not sent


@pytest.mark.parametrize(("count", "slots", "sizes"), [(10, 1, [10]), (100, 1, [25] * 4), (100_000, 2, None)])
def test_blocks_are_many_enough_and_not_too_small(count, slots, sizes):
    made = blocks._blocks(np.arange(count), Slots(slots, 1, 0))
    assert np.concatenate(made).tolist() == list(range(count))
    if sizes:
        assert list(map(len, made)) == sizes
    else:
        assert max(map(len, made)) <= blocks.LARGEST
