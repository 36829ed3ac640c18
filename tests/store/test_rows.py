"""What identifies rows, and in which form they are kept."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import SIZE, draw_images, small_model
from frostline.data.views import Views
from frostline.machine import find_machine
from frostline.network.network import Network
from frostline.network.part import Part
from frostline.preprocessing import Preprocessing
from frostline.store.activations import computed_once
from frostline.store.rows import Rows, row_bytes
from frostline.store.shards import Cache

HOW = Preprocessing(size=SIZE, resize=36)


@pytest.fixture
def network() -> Network:
    return Network(small_model(), HOW)


def lower_of(network: Network, name: str = "block2") -> Part:
    return network.below(network.find(name))


def test_a_key_is_that_of_every_machine(network, fp32, monkeypatch):
    key = Rows(lower_of(network), Views(), fp32).key()
    elsewhere = replace(fp32, device=torch.device("meta"), workers=fp32.workers + 5)
    monkeypatch.setattr(torch, "__version__", "9.9.9+cu999")
    assert Rows(lower_of(network), Views(3), elsewhere).key() == key
    about = json.dumps(Rows(lower_of(network), Views(), fp32).about)
    assert not any(word in about for word in ("cpu", "cuda", "9.9.9"))


def test_a_key_is_that_of_precision_preprocessing_and_cut(network, fp32):
    lower = lower_of(network)
    others = [
        Rows(lower, Views(), fp32),
        Rows(lower, Views(), replace(fp32, precision="bf16")),
        Rows(lower_of(network, "head"), Views(), fp32),
        Rows(lower_of(Network(small_model(), replace(HOW, resize=40))), Views(), fp32),
        Rows(lower_of(Network(small_model(1), HOW)), Views(), fp32),
    ]
    assert len({rows.key() for rows in others}) == len(others)


channels = st.tuples(*[st.sampled_from([0.25, 0.5])] * 3)
any_preprocessing = st.builds(
    Preprocessing,
    size=st.sampled_from([SIZE, 40]),
    resize=st.sampled_from([40, 44]),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    crop=st.sampled_from(["center", "squash"]),
    mean=channels,
    std=channels,
)


CUTS, PRECISIONS = ["block1", "block2"], ["fp32", "bf16"]


@pytest.fixture(scope="module")
def parts() -> dict[str, Part]:
    return {name: lower_of(Network(small_model(), HOW), name) for name in CUTS}


@settings(deadline=None)
@given(any_preprocessing, any_preprocessing, st.sampled_from(CUTS), st.sampled_from(PRECISIONS))
def test_two_keys_are_the_same_exactly_if_all_that_decides_a_row_is(parts, one, other, cut, precision):
    asked = [(one, "block2", "fp32"), (other, cut, precision)]
    keys = []
    for preprocessing, name, numbers in asked:
        parts[name].preprocessing = preprocessing
        keys.append(Rows(parts[name], Views(), find_machine("cpu", numbers, 1)).key())
    assert (keys[0] == keys[1]) == (asked[0] == asked[1])


def test_rows_that_nobody_can_tell_apart_have_a_key_like_no_other(network, fp32):
    network.model.conv.source = iter([1])
    rows = [Rows(lower_of(network), Views(), fp32) for _ in range(2)]
    assert rows[0].not_storable == rows[1].not_storable == "conv.source is a builtins.list_iterator"
    assert rows[0].key() != rows[1].key()
    assert rows[0].key() == rows[0].key()
    assert rows[0].form.key == ""


def test_views_by_ones_own_function_are_not_storable(network, fp32):
    assert "function of your own" in Rows(lower_of(network), Views(2, augment=lambda image: image), fp32).not_storable
    assert Rows(lower_of(network), Views(2), fp32).not_storable == ""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_size_of_a_row_is_known_from_the_cut_alone(precision, network, monkeypatch):
    machine = find_machine("cpu", precision, 1)
    sizes = {cut: Rows(network.below(cut), Views(), machine).row_bytes() for cut in network.trace.cuts}
    monkeypatch.setattr(Network, "below", lambda *_: pytest.fail("a part was made"))
    for cut, size in sizes.items():
        number = 1 if cut.position == 0 else {"fp32": 4, "bf16": 2}[precision]
        assert row_bytes(cut, machine) == size == number * math.prod(cut.shape)


@pytest.mark.parametrize(
    ("frostline", "precision", "shape", "dtype"),
    [
        ("stem", "bf16", (SIZE, SIZE, 3), "uint8"),
        ("block1", "fp32", (16, 16, 8), "float32"),
        ("block2", "bf16", (8, 8, 16), "bfloat16"),
        ("head", "bf16", (24,), "bfloat16"),
    ],
)
def test_rows_are_kept_with_their_channels_last(frostline, precision, shape, dtype):
    lower, _ = Network(small_model(), HOW).cut(frostline)
    rows = Rows(lower, Views(2), find_machine("cpu", precision, 2))
    assert (rows.form.shape, rows.form.dtype, rows.form.key) == (shape, dtype, rows.key())
    assert rows.row_bytes() == rows.form.row_bytes
    assert (rows.pixels is None) == (frostline != "stem")


def test_what_nobody_can_tell_from_others_is_kept_in_memory_and_said(tmp_path, capsys):
    lower, _ = Network(small_model(), HOW).cut("head")
    found = computed_once(lower, draw_images(4), Views(2, augment=lambda image: image), cache=Cache(tmp_path))
    assert found.filled.kept == "memory"
    assert "the augmentation is a function of your own" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.shard"))
    assert torch.isfinite(found.fetch(torch.arange(8))).all()
