from __future__ import annotations

import torch

from exports import classifier, exported


def test_it_is_a_plain_state_dict(tmp_path):
    made = classifier()
    file, found = exported("pth", tmp_path, made)
    assert found.largest < 1e-5
    state = torch.load(file, weights_only=True)
    assert list(state) == list(made.model.state_dict())
    made.model.load_state_dict(state)
