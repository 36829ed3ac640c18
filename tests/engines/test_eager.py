from __future__ import annotations

import numpy as np
import pytest
import torch

from architectures import SIZES, built
from frostline.engines import eager
from frostline.machine import find_machine
from frostline.network.network import Network


@pytest.mark.parametrize("name", SIZES)
def test_every_network_gives_its_own_numbers_when_folded_and_fused(name):
    model, preprocessing = built(name)
    lower, _ = Network(model, preprocessing).cut("head")
    if not lower.graphs:
        pytest.skip("not traceable: it runs as it is")
    machine = find_machine("cpu", "fp32", 2)
    pictures = np.random.default_rng(0).integers(0, 256, (2, preprocessing.size, preprocessing.size, 3), np.uint8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (rows,), (right,) = eager.cast(lower, machine)(pictures), eager.reference(lower, machine, pictures)
    torch.testing.assert_close(rows, right, rtol=1e-3, atol=1e-3 * float(right.abs().max()))
    for name, value in model.state_dict().items():
        assert torch.equal(before[name], value), name


def test_the_step_keeps_the_pixels_of_all_images_alike():
    model, preprocessing = built("torchvision:resnet18")
    lower, _ = Network(model, preprocessing).cut("head")
    assert eager.step(lower, find_machine("cpu")) == eager.MOST_IMAGES
    lower.preprocessing = preprocessing.at_size(224)
    assert eager.step(lower, find_machine("cpu")) == 8
    lower.preprocessing = preprocessing.at_size(4096)
    assert eager.step(lower, find_machine("cpu")) == 1


def test_threads_are_as_before():
    threads = torch.get_num_threads()
    with eager.threads_kept():
        torch.set_num_threads(1)
    assert torch.get_num_threads() == threads


def test_padding_repeats_nothing():
    pictures = np.ones((3, 4, 4, 3), np.uint8)
    assert eager.padded(pictures, 5).sum(axis=(1, 2, 3)).tolist() == [48, 48, 48, 0, 0]
    assert eager.padded(pictures, 3) is pictures
