from __future__ import annotations

import pytest
import torch

from conftest import SIZE, draw_images, small_model
from frostline.data.views import PLAIN, Views
from frostline.machine import find_machine
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing
from frostline.store.filling import FeatureExtraction, extract
from frostline.store.rows import Rows
from frostline.store.shards import Cache

HOW = Preprocessing(size=SIZE, resize=36)


@pytest.mark.parametrize("views", [1, 11])
@pytest.mark.parametrize("frostline", ["stem", "block2", "head"])
def test_every_view_of_every_image_gets_its_row(frostline, views, tmp_path):
    machine, images = find_machine("cpu", "fp32", 2), draw_images(7)
    lower, _ = Network(small_model(), HOW).cut(frostline)
    extraction = FeatureExtraction(Rows(lower, Views(views), machine), images, Cache(tmp_path))
    assert extraction.missing == 7 * views
    assert extract([extraction], lower, "")
    names = [name for shard in extraction.shards for name in shard.names]
    assert len(names) == len(set(names)) == extraction.computed == 7 * views
    again = FeatureExtraction(Rows(lower, Views(views), machine), images, Cache(tmp_path))
    assert (again.missing, again.found) == (0, 7 * views)


def test_a_store_remembers_where_nothing_is_written(tmp_path):
    machine, images = find_machine("cpu", "fp32", 2), draw_images(5)
    lower, _ = Network(small_model(), HOW).cut("head")
    extraction = FeatureExtraction(Rows(lower, PLAIN, machine), images, None)
    assert extract([extraction], lower, "")
    assert torch.cat([shard.rows for shard in extraction.shards]).shape == (5, *lower.output_shape)
    assert not list(tmp_path.iterdir())
