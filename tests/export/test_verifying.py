from __future__ import annotations

import numpy as np
import pytest

from exports import classifier, images
from frostline.errors import MachineError
from frostline.export.verifying import Agreement, agreement, refuse_other_answers


def answer_of(made):
    return lambda batch: made.predict_proba(list(batch))


def test_the_classifier_agrees_with_itself():
    found = agreement(answer_of(classifier()), classifier(), images())
    assert found == Agreement(images=1 + 2 + 3 + 7 + len(images()), largest=found.largest, same=1.0)
    assert found.largest < 1e-6
    refuse_other_answers(found, "onnx")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda right: right + 2e-4,
        lambda right: right[:, ::-1],
        lambda right: np.full_like(right, np.nan),
        lambda right: right[:1],
    ],
    ids=["a little", "swapped classes", "not a number", "one image of a batch"],
)
def test_whatever_answers_otherwise_is_refused(wrong):
    right = answer_of(classifier())
    found = agreement(lambda batch: wrong(right(batch)), classifier(), images())
    with pytest.raises(MachineError, match="the onnx file gives other probabilities than the classifier"):
        refuse_other_answers(found, "onnx")


def test_another_temperature_or_preprocessing_is_seen():
    for other in (classifier(temperature=1.0), classifier("multilabel")):
        assert agreement(answer_of(other), classifier(), images()).largest > 1e-3
