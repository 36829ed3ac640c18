from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from exports import ABOUT, classifier, exported, images


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


def test_it_is_one_file_of_a_current_opset(file):
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
