from __future__ import annotations

import numpy as np
import pytest

from conftest import SIZE, draw_images, small_model
from frostline.data.pictures import Marked
from frostline.data.views import PLAIN
from frostline.engines.choice import engine_of
from frostline.engines.pipeline import computed
from frostline.machine import find_machine
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing

HOW = Preprocessing(size=SIZE, resize=36)


@pytest.mark.parametrize("parallel", [True, False])
def test_every_picture_gets_its_output_and_what_is_not_needed_none(parallel, monkeypatch):
    machine, images = find_machine("cpu", "fp32", 2), draw_images(20)
    lower, _ = Network(small_model(), HOW).cut("head")
    engine = engine_of(lower, machine)
    object.__setattr__(engine, "parallel", parallel)
    steps = computed(
        images, Marked(np.ones((20, 1), bool)), PLAIN, HOW, engine, machine, lambda i, v: v if i % 3 else []
    )
    samples = []
    for places, pictures, outputs, failed in steps:
        assert (len(places), failed) == (len(pictures), {})
        if places:
            np.testing.assert_allclose(outputs[0], engine.run(pictures)[0], rtol=1e-4, atol=1e-5)
        samples += places
    assert samples == [(i, 0) for i in range(20) if i % 3]
