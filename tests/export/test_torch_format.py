from __future__ import annotations

import json

import pytest
import torch

from exports import ABOUT, classifier, exported
from frostline.export.torch_format import ABOUT as NAME


@pytest.mark.long
def test_a_program_answers_like_its_classifier_and_names_its_classes(tmp_path):
    file, found = exported("torch", tmp_path, classifier())
    assert found.largest < 1e-5
    assert found.same == 1
    extra = {NAME: ""}
    torch.export.load(file, extra_files=extra)
    assert json.loads(extra[NAME]) == ABOUT
