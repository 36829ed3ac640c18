from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import SIZE, draw_images
from frostline.data.images import Images
from frostline.data.pictures import decoded
from frostline.data.views import PLAIN, Views, pixels
from frostline.engines.choice import Engine
from frostline.engines.pipeline import computed
from frostline.machine import find_machine
from frostline.preprocessing import Preprocessing

HOW = Preprocessing(size=SIZE, resize=36)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("batch", [3, 64])
def test_pictures_come_in_order_whoever_decodes_them(workers, batch):
    images, views = draw_images(20), Views(3)
    wanted = {i: [0, 2] if i % 2 else [1] for i in range(20)}
    batches = list(decoded(images, wanted, views, HOW, workers, batch))
    places = [place for part, _, _ in batches for place in part]
    assert places == [(i, v) for i in range(20) for v in wanted[i]]
    assert max(len(part) for part, _, _ in batches) <= batch
    for (i, view), picture in zip(places, np.concatenate([p for _, p, _ in batches]), strict=True):
        assert np.array_equal(picture, pixels(images.pictures[i], images.digests[i], [view], views, HOW)[0])


def test_failures_are_reported_with_their_reason(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").touch()
    images = Images([tmp_path / "bad.png", tmp_path / "good.png", tmp_path / "none.png"], np.zeros(3, np.int64), "abc")
    ((places, pictures, failed),) = decoded(images, {i: [0] for i in range(3)}, PLAIN, HOW, 2)
    assert (places, len(pictures)) == ([(1, 0)], 1)
    assert failed.keys() == {0, 2}
    assert failed[0] == "empty file"


def test_nothing_to_decode():
    assert list(decoded(draw_images(3), {}, PLAIN, HOW, 2)) == []


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_engine_of_one_batch_size_is_filled(count):
    """A CUDA graph computes as many images as it was recorded for, whoever many it is given."""
    sizes: list[int] = []

    def run(pictures: np.ndarray) -> list[torch.Tensor]:
        sizes.append(len(pictures))
        return [torch.from_numpy(pictures)]

    images, views = draw_images(100), Views(count)
    wanted = {i: list(range(count)) for i in range(100)}
    engine = Engine("graphs", run, False, 96)
    steps = list(computed(images, wanted, views, HOW, engine, find_machine("cpu", "fp32", 3)))
    assert [place for places, _, _, _ in steps for place in places] == [(i, v) for i in range(100) for v in wanted[i]]
    assert sum(sizes) == 100 * count
    assert all(88 < size <= 96 for size in sizes[:-1])
    assert len(sizes) == -(-100 * count // 96)


def test_the_process_is_left_as_it_was_between_two_steps():
    """Somebody's own loop runs between them: its warnings' filters are its own."""
    before = list(warnings.filters)
    steps = decoded(draw_images(40), {i: [0] for i in range(40)}, PLAIN, HOW, 2, 8)
    for _ in steps:
        assert warnings.filters == before
