from __future__ import annotations

import openvino

from conftest import SIZE
from exports import ABOUT, classifier, exported


def test_it_answers_like_its_classifier_for_pictures_of_the_networks_size(tmp_path):
    file, found = exported("openvino", tmp_path, classifier())
    assert found.largest < 1e-5
    assert found.same == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    model = openvino.Core().read_model(file)
    assert [each.get_any_name() for each in model.inputs + model.outputs] == ["image", "probabilities"]
    assert model.inputs[0].partial_shape.to_string() == f"[?,{SIZE},{SIZE},3]"
    assert {name: model.get_rt_info(["frostline", name]).value for name in ABOUT} == ABOUT
