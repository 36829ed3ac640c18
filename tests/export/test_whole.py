from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from exports import classifier, images
from frostline.errors import MachineError, UsageError
from frostline.export import FORMATS, exporter_of, quantiser_of
from frostline.export.whole import whole


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_the_module_answers_like_the_classifier(task):
    made = classifier(task)
    with torch.inference_mode():
        found = [whole(made)(torch.from_numpy(image)[None])[0].numpy() for image in images()]
    assert np.abs(np.stack(found) - made.predict_proba(images())).max() < 1e-6


def test_it_shares_no_weights():
    made = classifier()
    program = whole(made)
    with torch.no_grad():
        next(program.network.parameters()).zero_()
    assert next(made.model.parameters()).abs().sum() > 0


def test_what_cannot_be_exported_is_said():
    with pytest.raises(UsageError, match="segmentation"):
        whole(replace(classifier(), task="segmentation"))
    made = classifier()
    with pytest.raises(UsageError, match="the interpolation nearest cannot be exported"):
        whole(replace(made, preprocessing=replace(made.preprocessing, interpolation="nearest")))


def test_every_format_has_its_module_and_an_ending_of_its_own():
    assert len({exporter_of(name).ENDING for name in FORMATS}) == len(FORMATS)


def test_formats_of_weights_have_no_int8():
    with pytest.raises(UsageError, match="format pth cannot be in int8; use format onnx or openvino"):
        quantiser_of("pth")
    with pytest.raises(UsageError, match="unknown format 'onx'"):
        quantiser_of("onx")


def test_an_unknown_format_and_a_missing_package_are_named(monkeypatch):
    with pytest.raises(UsageError, match="unknown format 'onx'; nearest: onnx"):
        exporter_of("onx")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MachineError, match=r"format onnx needs onnx, .* pip install 'frostline\[export\]'"):
        exporter_of("onnx")
    with pytest.raises(MachineError, match=r"openvino needs .*, nncf: pip install 'frostline\[export,openvino,int8\]'"):
        quantiser_of("openvino")
