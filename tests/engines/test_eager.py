from __future__ import annotations

import numpy as np
import pytest
import torch

from architectures import EVERY, built
from conftest import SIZE, small_model
from frostline.engines import eager
from frostline.engines.checking import TOLERANCES, difference
from frostline.machine import find_machine
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing


@pytest.mark.parametrize("name", EVERY)
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


def test_padding_repeats_nothing():
    pictures = np.ones((3, 4, 4, 3), np.uint8)
    assert eager.padded(pictures, 5).sum(axis=(1, 2, 3)).tolist() == [48, 48, 48, 0, 0]
    assert eager.padded(pictures, 3) is pictures


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rows_from_a_lower_cut_are_those_of_the_images(precision):
    network = Network(small_model(), Preprocessing(size=SIZE, resize=36))
    machine, low, high = find_machine("cpu", precision, 2), network.find("block1"), network.find("head")
    pictures = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    (right,) = eager.reference(network.below(high), machine, pictures)
    base = eager.reference(network.below(low), machine, pictures)[0].movedim(-1, 1)
    rows = eager.forward_from(network.between(low, high), machine)(base)
    assert (rows.device.type, rows.dtype, rows.is_inference()) == ("cpu", torch.float32, False)
    assert difference([rows], [right]) < TOLERANCES[precision]


@pytest.mark.parametrize("fault", ["differs", "raises"])
def test_a_wrong_fast_path_between_cuts_is_left_with_one_line(fault, monkeypatch, capfd):
    network = Network(small_model(), Preprocessing(size=SIZE, resize=36))
    machine, low, high = find_machine("cpu", "fp32", 2), network.find("block1"), network.find("head")
    middle = network.between(low, high)
    x = torch.rand(5, *low.shape)

    def broken(part):
        if fault == "raises":
            raise RuntimeError("no such instruction")
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.mul_(1.5)
        return part

    monkeypatch.setattr(eager, "fuse_activations", broken)
    run = eager.forward_from(middle, machine)
    for _ in range(2):
        torch.testing.assert_close(run(x), middle(x), rtol=1e-3, atol=1e-3)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("not using torch's fast path between the cuts")
