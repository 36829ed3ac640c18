from __future__ import annotations

import numpy as np
import pytest

from conftest import draw_images
from frostline.checks.classes import findings
from frostline.checks.samples import samples_of
from frostline.data.images import Images


def images(*numbers: int) -> Images:
    drawn = draw_images(len(numbers))
    return Images(drawn.pictures, np.array(numbers, np.int64), drawn.names)


def kinds(splits, classes=("a", "b")):
    return [(finding.kind, finding.splits, finding.labels) for finding in findings(samples_of(splits, classes))]


def test_classes_that_a_split_lacks_are_named():
    assert kinds({"train": images(0, 1), "valid": images(0, 0)}) == [("missing-class", ("valid",), ("b",))]
    assert kinds({"train": images(0, 1), "valid": images(0, 1)}) == []


def test_imbalance_is_told_from_more_than_ten_times_on_and_of_training_images_only():
    assert kinds({"train": images(*[0] * 10, 1), "valid": images(*[0] * 40, 1)}) == []
    (found,) = findings(samples_of({"train": images(*[0] * 11, 1)}, ("a", "b")))
    assert (found.kind, found.labels, found.score) == ("imbalance", ("a", "b"), 11)


@pytest.mark.parametrize("other", ["cat", "CAT", " Cat", "Cat ", "C\uff41t"])
def test_names_that_differ_in_case_spaces_or_unicode_only(other):
    assert ("similar-names", (), ("Cat", other)) in kinds({"train": images(0, 1)}, ("Cat", other))


def test_names_that_are_different_words():
    assert kinds({"train": images(0, 1)}, ("golden_retriever", "golden_receiver")) == []


def test_several_labels_count_for_each_of_their_classes():
    drawn = draw_images(2)
    marks = np.array([[True, True], [True, False]])
    assert kinds({"train": Images(drawn.pictures, marks, drawn.names)}) == []
