from __future__ import annotations

import pytest
import torch

from conftest import SIZE, draw_images, small_model
from frostline.data.views import PLAIN, Views
from frostline.filling import Filling, Rows, fill
from frostline.machine import machine
from frostline.network import Network
from frostline.preprocessing import Preprocessing
from frostline.store import Cache

HOW = Preprocessing(size=SIZE, resize=36)


@pytest.mark.parametrize("views", [1, 11])
@pytest.mark.parametrize("frostline", ["stem", "block2", "head"])
def test_every_view_of_every_image_gets_its_row(frostline, views, tmp_path):
    on, images = machine("cpu", "fp32", 2), draw_images(7)
    lower, _ = Network(small_model(), HOW).cut(frostline)
    filling = Filling(Rows(lower, Views(views), on), images, Cache(tmp_path))
    assert filling.missing == 7 * views
    assert fill([filling], lower, "")
    names = [name for shard in filling.shards for name in shard.names]
    assert len(names) == len(set(names)) == filling.computed == 7 * views
    again = Filling(Rows(lower, Views(views), on), images, Cache(tmp_path))
    assert (again.missing, again.found) == (0, 7 * views)


def test_a_store_remembers_where_nothing_is_written(tmp_path):
    on, images = machine("cpu", "fp32", 2), draw_images(5)
    lower, _ = Network(small_model(), HOW).cut("head")
    filling = Filling(Rows(lower, PLAIN, on), images, None)
    assert fill([filling], lower, "")
    assert torch.cat([shard.rows for shard in filling.shards]).shape == (5, *lower.output_shape)
    assert not list(tmp_path.iterdir())
