from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from conftest import SIZE, Small
from frostline.checks.findings import Finding
from frostline.classifier.classifier import Classifier
from frostline.machine import find_machine
from frostline.report.material import flat, gather, of_findings
from frostline.report.pictures import Masked
from frostline.report.shots import Shots, mistakes
from frostline.tasks import task_of
from tasks_data import HOW, halves, several_labels


def measured(images, task="classification"):
    torch.manual_seed(0)
    model = Small(len(images.classes))
    classifier = Classifier(model.eval(), images.classes, HOW, find_machine("cpu", "fp32"), task)
    logits = torch.cat([own for _, own, _ in classifier.logits(images.test)])
    targets = torch.from_numpy(
        np.asarray(images.test.targets).astype(np.int64 if task == "classification" else np.float32)
    )
    return classifier, task_of(task).outputs(logits, targets)


def gathered(classifier, images, outputs, features):
    seen = Shots(wrong={"test": mistakes(classifier, images, outputs, "test")})
    return gather(classifier, images, outputs, features, "test", seen)


def picture(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_mistakes_come_worst_first_with_what_mattered(stripes):
    classifier, outputs = measured(stripes)
    features = torch.randn(len(stripes.test), 12)
    found = gathered(classifier, stripes.test, outputs, features)
    wrong = [each for each in found["worst"] if each["true"] == each["predicted"]]
    assert (found["split"], wrong) == ("test", [])
    assert all(each["true"] == each["predicted"] for each in found["unsure"])
    assert len(found["worst"]) + len(found["unsure"]) > 0
    for each in [*found["worst"], *found["unsure"]]:
        assert picture(each["picture"]).size == picture(each["heat"]).size == (SIZE, SIZE)
    losses = {name: float(loss) for name, loss in zip(stripes.test.names, outputs.losses, strict=True)}
    assert found["mistakes"] >= len(found["worst"])
    order = [losses[each["name"]] for each in found["worst"]]
    assert order == sorted(order, reverse=True)


def test_the_map_has_a_place_and_a_picture_for_each_image(stripes):
    classifier, outputs = measured(stripes)
    found = gathered(classifier, stripes.test, outputs, torch.randn(len(stripes.test), 12))["map"]
    assert {point["name"] for point in found} == set(stripes.test.names)
    assert all(0 <= point["x"] <= 1 and 0 <= point["y"] <= 1 for point in found)
    assert picture(found[0]["picture"]).size == (SIZE, SIZE)
    assert gathered(classifier, stripes.test, outputs, None)["map"] == []
    many = torch.randn(len(stripes.test), 12).bfloat16()  # as features of many images are kept
    assert len(gathered(classifier, stripes.test, outputs, many)["map"]) == len(stripes.test)


def test_several_labels_are_shown_as_they_are_called():
    images = several_labels()
    classifier, outputs = measured(images, "multilabel")
    found = gathered(classifier, images.test, outputs, None)
    assert any("|" in each["true"] for each in [*found["worst"], *found["unsure"]])


def test_of_masks_the_worst_are_gathered():
    images = halves()
    wrong = Masked("a.png", 0.25, *(np.full((SIZE, SIZE, *more), 1, np.uint8) for more in ((3,), (), ())))
    masks = task_of("segmentation").outputs(torch.randn(2, 2, 8, 8), torch.zeros(2, 8, 8, dtype=torch.int64))
    classifier, _ = measured(several_labels(), "multilabel")
    pink = replace(classifier, colours=(0, 0xFF00C8) + (0,) * (len(classifier.classes) - 2))
    (own,) = gather(pink, images.test, masks, None, "test", Shots(masks={"test": [wrong]}))["masks"]
    red, green, _ = np.asarray(picture(own["pictures"][1]))[SIZE // 2, SIZE // 2].tolist()
    assert red > 120 > green  # the colour of the user
    found = gather(classifier, images.test, masks, None, "test", Shots(masks={"test": [wrong]}))
    assert {name: found[name] for name in ("split", "worst", "unsure", "map", "views")} == {
        "split": "test",
        "worst": [],
        "unsure": [],
        "map": [],
        "views": [],
    }
    (own,) = found["masks"]
    assert (own["name"], own["iou"]) == ("a.png", 0.25)
    assert [picture(each).size for each in own["pictures"]] == [(SIZE, SIZE)] * 3


def test_what_is_alike_lies_together():
    torch.manual_seed(0)
    features = torch.cat([torch.randn(30, 8), torch.randn(30, 8) + 8]).numpy()
    places = flat(features)
    middles = places[:30].mean(0), places[30:].mean(0)
    within = np.linalg.norm(places[:30] - middles[0], axis=1).mean()
    assert np.linalg.norm(middles[0] - middles[1]) > 2 * within
    np.testing.assert_array_equal(places, flat(features))


def test_of_findings_the_first_of_each_kind_have_their_pictures(stripes):
    classifier, _ = measured(stripes)
    names = list(stripes.test.names)
    found = [Finding("label-error", (name,), ("test",), ("a",), 0.9, f"about {name}") for name in names[:12]]
    found += [
        Finding("leak", (names[0], names[1], names[2]), ("test",) * 3, ("a",) * 3, 1.0, "the same"),
        Finding("leak", ("gone",), ("test",), ("a",), 1.0, "no picture"),
        Finding("imbalance", (), ("train",), ("a",), 12.0, "not to be looked at"),
    ]
    places = {("test", name): number for number, name in enumerate(names)}
    shown = of_findings(classifier, stripes.test, places, found)
    assert {kind: len(own) for kind, own in shown.items()} == {"leak": 1, "label-error": 8}
    assert len(shown["leak"][0]["pictures"]) == 2
    assert picture(shown["label-error"][0]["pictures"][0]).size == (SIZE, SIZE)
    assert [own["name"] for own in shown["label-error"]] == names[:8]


def test_without_findings_there_are_no_pictures(stripes):
    classifier, _ = measured(stripes)
    assert of_findings(classifier, stripes.test, {}, []) == {}
