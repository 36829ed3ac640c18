from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from conftest import SIZE, draw_images
from frostline.data.images import Images
from frostline.data.pictures import decoded
from frostline.data.views import PLAIN, Views, pixels
from frostline.engines import pipeline
from frostline.preprocessing import Preprocessing

HOW = Preprocessing(size=SIZE, resize=36)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("batch", [3, 64])
def test_pictures_come_in_order_whoever_decodes_them(workers, batch, monkeypatch):
    monkeypatch.setattr(pipeline, "BATCH", batch)
    monkeypatch.setattr(pipeline, "STEP", 2)
    images, views = draw_images(20), Views(3)
    wanted = {i: [0, 2] if i % 2 else [1] for i in range(20)}
    batches = list(decoded(images, wanted, views, HOW, workers))
    places = [place for part, _, _ in batches for place in part]
    assert places == [(i, v) for i in range(20) for v in wanted[i]]
    assert max(len(part) for part, _, _ in batches) <= batch + 1
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
