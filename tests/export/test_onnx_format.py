from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from exports import ABOUT, classifier, exported, images
from frostline.export import onnx_format
from frostline.export.whole import whole


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file, found = exported("onnx", tmp_path_factory.mktemp("onnx"), classifier())
    assert found.same == 1
    assert found.largest < 1e-5
    return file


def test_input_output_and_metadata_are_as_promised(file):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (given,), (found,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type) == ("image", "tensor(uint8)")
    assert given.shape[3] == 3
    assert all(isinstance(each, str) for each in given.shape[:3])  # any number, height and width
    assert (found.name, found.type, found.shape[1]) == ("probabilities", "tensor(float)", 5)
    assert session.get_modelmeta().custom_metadata_map == ABOUT
    assert json.loads(ABOUT["classes"])[0] == "ä"


def test_D26_it_is_one_file_of_a_current_opset(file):
    assert [path.name for path in file.parent.iterdir()] == ["model.onnx"]
    model = onnx.load(file, load_external_data=False)
    assert max(each.version for each in model.opset_import if not each.domain) >= 18
    assert {each.domain for each in model.opset_import} <= {"", "ai.onnx"}  # nothing but standard operations


def test_the_numbers_are_probabilities_of_every_batch(file):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        batch = np.stack([images()[0]] * count)
        (found,) = session.run(None, {"image": batch})
        assert found.shape == (count, 5)
        assert np.allclose(found.sum(1), 1, atol=1e-5)


@pytest.mark.long
def test_in_int8_only_the_network_is_quantised(tmp_path):
    small = tmp_path / "small.onnx"
    size = onnx_format.write_int8(whole(classifier()), ABOUT, iter(images()), small)
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]
    model = onnx.load(small)
    assert {each.key: each.value for each in model.metadata_props} == ABOUT
    made_by = {name: node for node in model.graph.node for name in node.output}
    quantised = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert quantised
    kinds = {each.name: each.type.tensor_type.elem_type for each in model.graph.value_info}
    assert onnx.TensorProto.DOUBLE in kinds.values()  # the resize
    assert onnx.TensorProto.DOUBLE not in {kinds.get(name) for name in quantised}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions
    for node in convolutions:
        assert {made_by[name].op_type for name in node.input} == {"DequantizeLinear"}
    session = onnxruntime.InferenceSession(small, providers=["CPUExecutionProvider"])
    for image in images():
        (found,) = session.run(None, {"image": image[None]})
        assert np.abs(found - classifier().predict_proba([image])).max() < 0.05
    assert size > 0
