from __future__ import annotations

import openvino
import pytest

from conftest import SIZE
from exports import ABOUT, classifier, exported, images
from frostline.export import openvino_format
from frostline.export.verifying import agreement
from frostline.export.whole import whole


@pytest.mark.long
def test_it_answers_like_its_classifier_for_pictures_of_the_networks_size(tmp_path):
    file, found = exported("openvino", tmp_path, classifier())
    assert found.largest < 1e-5
    assert found.same == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    model = openvino.Core().read_model(file)
    assert [each.get_any_name() for each in model.inputs + model.outputs] == ["image", "probabilities"]
    assert model.inputs[0].partial_shape.to_string() == f"[?,{SIZE},{SIZE},3]"
    assert {name: model.get_rt_info(["frostline", name]).value for name in ABOUT} == ABOUT


@pytest.mark.long
def test_in_int8_it_is_smaller_and_nearly_the_same(tmp_path):
    pytest.importorskip("nncf", reason="nncf is not here: pip install 'frostline[int8]'")
    made, file = classifier(), tmp_path / "model.xml"
    program = whole(made, resizes=False)
    size = openvino_format.write_int8(program, ABOUT, iter(images()), file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    found = agreement(openvino_format.answering(file, program), made, images(), resizes=False)
    assert 1e-6 < found.largest < 0.05
    model = openvino.Core().read_model(file)
    assert any(each.get_type_name() == "FakeQuantize" for each in model.get_ops())
    assert {name: model.get_rt_info(["frostline", name]).value for name in ABOUT} == ABOUT
    assert size > 0
