"""Whose weights they are, and which."""

from __future__ import annotations

import copy
import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import frostline
from conftest import Small, small_model, state_of
from frostline.backbones import Backbone, load_backbone
from frostline.backbones.provenance import Provenance, tensors_sha256
from frostline.backbones.weights import licence_of


def test_random_weights_have_neither_licence_nor_digest():
    assert Provenance() == Provenance("none", "none", None)
    backbone = load_backbone("timm:test_resnet", "none")
    assert (backbone.weights, backbone.licence, backbone.sha256) == ("none", "none", None)


def test_the_digest_of_tensors_is_that_of_their_bytes_in_order():
    model = small_model()
    expected = hashlib.sha256(b"".join(value.numpy().tobytes() for value in model.state_dict().values()))
    assert tensors_sha256(model) == expected.hexdigest()


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_one_number_that_differs_is_another_digest(place, by):
    model = small_model()
    other = copy.deepcopy(model)
    values = list(other.state_dict().values())
    changed = values[place % len(values)]
    changed.view(-1)[place % changed.numel()] += by if changed.is_floating_point() else 1
    same = all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), values, strict=True))
    assert (tensors_sha256(model) == tensors_sha256(other)) == same


def test_where_the_numbers_lie_makes_no_difference():
    model = nn.Linear(4, 3)
    moved = nn.Linear(4, 3)
    moved.load_state_dict(model.state_dict())
    moved.weight.data = moved.weight.data.T.contiguous().T
    assert not moved.weight.is_contiguous()
    assert tensors_sha256(model) == tensors_sha256(moved)


def test_tensors_without_numbers_have_no_digest():
    assert tensors_sha256(nn.LazyLinear(3)) is None
    assert tensors_sha256(nn.Linear(4, 3, device="meta")) is None


def test_a_module_of_ones_own_has_a_digest_and_no_licence_that_anybody_states():
    model = small_model()
    backbone = load_backbone(model)
    assert (backbone.licence, backbone.sha256) == ("unknown", tensors_sha256(model))
    assert load_backbone(backbone, image_size=64).sha256 == backbone.sha256


def test_a_backbone_that_somebody_made_says_what_its_owner_says():
    backbone = Backbone("mine", Small(), frostline.Preprocessing(), licence="mit", sha256="00")
    assert load_backbone(backbone) is backbone


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [({}, "unknown"), ({"license": "mit"}, "mit"), ({"licence": "CC0-1.0"}, "CC0-1.0"), ({"license": ""}, "unknown")],
)
def test_a_file_is_hashed_and_its_metadata_name_the_licence(metadata, licence, tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file(state_of(load_backbone("timm:test_resnet", "none").model), file, metadata)
    backbone = load_backbone("timm:test_resnet", file)
    assert (backbone.weights, backbone.licence) == ("file:weights.safetensors", licence)
    assert backbone.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_pickled_file_states_no_licence(tmp_path):
    torch.save({"licence": torch.zeros(1)}, tmp_path / "weights.pth")
    assert licence_of(tmp_path / "weights.pth") == "unknown"
