from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from exports import ABOUT, classifier, exported, images
from frostline.export.safetensors_format import answering_with
from frostline.export.whole import whole


def test_the_weights_have_the_names_of_the_network(tmp_path):
    made = classifier()
    file, found = exported("safetensors", tmp_path, made)
    assert found.largest < 1e-5
    state = load_file(file)
    assert state.keys() == made.model.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in made.model.state_dict().items())
    with safe_open(file, "pt") as opened:
        assert opened.metadata().items() >= ABOUT.items()


def test_only_the_weights_of_the_file_answer():
    """A check that used the network's own weights could not fail."""
    made = classifier()
    state = {name: torch.zeros_like(value) for name, value in made.model.state_dict().items()}
    (found,) = answering_with(state, whole(made))(images()[0][None])
    assert found.tolist() == pytest.approx([1 / 5] * 5)
    with pytest.raises(RuntimeError, match="Missing key"):
        answering_with({}, whole(made))
