from __future__ import annotations

import pytest
import torch

from conftest import SIZE, draw_images, small_model
from frostline.data.views import PLAIN, Views
from frostline.machine import find_machine
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing
from frostline.store.filling import FeatureExtraction, extract
from frostline.store.inventory import take_inventory
from frostline.store.rows import Rows
from frostline.store.shards import Cache

HOW = Preprocessing(size=SIZE, resize=36)


@pytest.mark.parametrize("views", [1, 11])
@pytest.mark.parametrize("frostline", ["stem", "block2", "head"])
def test_every_view_of_every_image_gets_its_row(frostline, views, tmp_path):
    machine, images = find_machine("cpu", "fp32", 2), draw_images(7)
    lower, _ = Network(small_model(), HOW).cut(frostline)
    rows = Rows(lower, Views(views), machine)
    extraction = FeatureExtraction(take_inventory(rows, images, tmp_path), Cache(tmp_path))
    assert extraction.inventory.missing == 7 * views
    assert extract([extraction], lower, "")
    filled = extraction.finished()
    assert extraction.computed == 7 * views == sum(map(len, filled.shards))
    assert sorted(filled.places.ravel()) == list(range(7 * views))
    again = take_inventory(rows, images, tmp_path)
    assert (again.missing, again.found) == (0, 7 * views)


def test_without_a_store_rows_stay_in_memory(tmp_path):
    machine, images = find_machine("cpu", "fp32", 2), draw_images(5)
    lower, _ = Network(small_model(), HOW).cut("head")
    extraction = FeatureExtraction(take_inventory(Rows(lower, PLAIN, machine), images, None), None)
    assert extract([extraction], lower, "")
    assert torch.cat([shard.rows for shard in extraction.shards]).shape == (5, *lower.output_shape)
    assert not list(tmp_path.iterdir())
