from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from conftest import SIZE, draw_images, small_model
from frostline.data.pictures import Marked, decoded
from frostline.data.views import PLAIN, Views
from frostline.engines.choice import Engine, engine_of
from frostline.engines.pipeline import computed
from frostline.machine import find_machine
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing

HOW = Preprocessing(size=SIZE, resize=36)


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
