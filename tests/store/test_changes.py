"""What changes under a living data set or network is never stored, or read, as what it was before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from conftest import draw_images, small_model
from frostline.data.images import Images
from frostline.machine import find_machine
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing
from frostline.store.activations import computed_once
from frostline.store.shards import Cache

HOW = Preprocessing(size=32, resize=36)
FP32 = find_machine("cpu", "fp32", 2)


@pytest.fixture
def files(tmp_path):
    def images() -> Images:
        return Images(sorted(tmp_path.glob("*.png")), np.zeros(6, np.int64), [str(i) for i in range(6)])

    for i, picture in enumerate(draw_images(6).pictures):
        Image.fromarray(np.asarray(picture)).save(tmp_path / f"{i}.png")
    return images


def rows(part, images, cache=None):
    found = computed_once(part, images, machine=FP32, cache=cache)
    return found.fetch(torch.arange(len(found))), found


def test_a_file_that_changes_between_two_passes_leaves_no_wrong_row(files, tmp_path):
    cache, images = Cache(tmp_path / "cache"), files()
    network = Network(small_model(), HOW)
    low, high = network.cut("block2")[0], network.cut("head")[0]
    rows(high, images, cache)
    content = (tmp_path / "2.png").read_bytes()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "2.png")
    rows(low, images, cache)
    (tmp_path / "2.png").write_bytes(content)
    right, _ = rows(network.cut("block2")[0], files())
    stored, found = rows(network.cut("block2")[0], files(), cache)
    assert len(found) == 6
    torch.testing.assert_close(stored, right, rtol=1e-4, atol=1e-5)


def test_a_file_that_changes_in_the_middle_of_a_pass_is_left_out(files, tmp_path, monkeypatch):
    images = files()
    images.digests.all()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "2.png")
    monkeypatch.setattr(type(images.digests), "forget_changed", lambda _: None)  # it changes after that was asked
    _, found = rows(Network(small_model(), HOW).cut("head")[0], images, Cache(tmp_path / "cache"))
    assert found.unreadable == [("2", "it has changed since the data set was read")]


def test_an_edited_file_gives_its_new_row(files, tmp_path):
    cache, images, part = Cache(tmp_path / "cache"), files(), Network(small_model(), HOW).cut("head")[0]
    before, _ = rows(part, images, cache)
    Image.new("RGB", (40, 40), "red").save(tmp_path / "2.png")
    after, _ = rows(part, images, cache)
    right, _ = rows(part, files())
    torch.testing.assert_close(after, right, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before[2], after[2])


def test_a_sketch_is_that_of_the_weights_there_are(files, tmp_path):
    cache, network = Cache(tmp_path / "cache"), Network(small_model(), HOW)
    part = network.cut("head")[0]
    rows(part, files(), cache)
    with torch.no_grad():
        network.model.conv.weight.mul_(2)
    rows(part, files(), cache)
    _, found = rows(Network(network.model, HOW).cut("head")[0], files(), cache)
    assert found.filled.found == 6


def test_an_engine_is_not_given_to_another_network_of_the_same_fingerprint(files):
    """Its copy of a network shares what hooks close over, which may have changed since."""

    def hooked(scale):
        model = small_model()
        model.block1.conv1.register_forward_hook(lambda _module, _args, output: output * scale)
        return model

    scale = torch.ones(())
    rows(Network(hooked(scale), HOW).cut("head")[0], files())
    scale.mul_(5)
    right, _ = rows(Network(small_model(), HOW).cut("head")[0], files())
    other, _ = rows(Network(hooked(torch.ones(())), HOW).cut("head")[0], files())
    torch.testing.assert_close(other, right, rtol=1e-4, atol=1e-5)


def test_a_layer_that_cannot_be_copied_is_computed_and_not_stored(files, tmp_path, capsys):
    class Odd(nn.ReLU):
        def __init__(self):
            super().__init__()
            self.module = pytest

    model = small_model()
    right, _ = rows(Network(small_model(), HOW).cut("head")[0], files())
    model.relu = Odd()
    computed, found = rows(Network(model, HOW).cut("head")[0], files(), Cache(tmp_path / "cache"))
    torch.testing.assert_close(computed, right, rtol=1e-4, atol=1e-5)
    assert found.filled.kept == "memory"
    assert "not caching" in capsys.readouterr().err
