from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional

import frostline
from conftest import SIZE, draw_images, small_model
from frostline.backbones import load_backbone
from frostline.classifier.classifier import mask_at
from frostline.errors import WeightsError
from frostline.preprocessing import Preprocessing
from frostline.tasks import task_of
from tasks_data import HOW, fitted, halves, several_labels


@pytest.fixture(scope="module")
def run(tmp_path_factory, stripes):
    folder = tmp_path_factory.mktemp("classifier")
    backbone = load_backbone(small_model(), preprocessing=Preprocessing(size=SIZE, resize=36))
    options = {"plan": "probe", "cache_dir": folder / "cache", "quiet": True}
    return frostline.fit(stripes, backbone=backbone, out=folder / "run", **options)


def test_one_image_has_one_answer_in_any_company(run):
    classifier = frostline.load_classifier(run, model=small_model())
    pictures = list(draw_images(9, seed=7).pictures)
    together = list(classifier.predict(pictures))
    for picture, answer in zip(pictures, together, strict=True):
        (alone,) = classifier.predict([picture])
        assert alone.label == answer.label
        assert alone.probability == pytest.approx(answer.probability, abs=1e-5)
    assert [answer.path for answer in together][:2] == ["image 0", "image 1"]
    for answer in together:
        assert sum(p for _, p in answer.top) == pytest.approx(1, abs=1e-5)
        assert answer.top[0] == (answer.label, answer.probability)


def test_files_and_arrays_are_the_same(run, tmp_path):
    picture = draw_images(1).pictures[0]
    Image.fromarray(picture).save(tmp_path / "picture.png")
    classifier = frostline.load_classifier(run, model=small_model())
    from_array, from_file = classifier.predict([picture, tmp_path / "picture.png"])
    assert dict(from_array.top) == pytest.approx(dict(from_file.top))


def test_many_images_keep_their_order(run):
    images = draw_images(150, seed=9)
    answers = list(frostline.load_classifier(run, model=small_model()).predict(list(images.pictures)))
    right = [answer.label == ("flat", "tall", "plain")[t] for answer, t in zip(answers, images.targets, strict=True)]
    assert len(answers) == 150
    assert np.mean(right) > 0.9


def test_your_own_network_has_to_be_given(run):
    with pytest.raises(WeightsError, match="made from your own Small; give it"):
        frostline.load_classifier(run)
    with pytest.raises(WeightsError, match="do not fit Small"):
        frostline.load_classifier(run, model=torch.nn.Linear(3, 3))


def test_a_newer_format_is_refused(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    file = tmp_path / "run" / "model" / "model.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    with pytest.raises(WeightsError, match="has format 99; this version of Frostline reads format 2"):
        frostline.load_classifier(tmp_path / "run", model=small_model())


def test_the_card_escapes_class_names(run):
    card = (run.path / "model" / "MODEL_CARD.md").read_text()
    assert "- flat\n- tall\n- plain" in card


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("multilabel"), several_labels())


@pytest.fixture(scope="session")
def segmented(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("segmentation"), halves())


def test_several_labels_are_said_of_one_image(labelled):
    classifier = frostline.load_classifier(labelled, model=small_model())
    assert (classifier.task, classifier.classes) == ("multilabel", ("red", "green", "blue"))
    images = several_labels().valid
    predicted = list(classifier.predict_images(images))
    assert [answer.path for answer in predicted] == list(images.names)
    for answer in predicted:
        sure = {name for name, p in answer.top if p >= 0.5}
        assert set(answer.label.split("|")) - {""} == sure
        assert answer.mask is None
        assert 0.5 <= answer.probability <= 1
    truth = images.labels(classifier.classes)
    assert np.mean([answer.label == true for answer, true in zip(predicted, truth, strict=True)]) > 0.5


def test_a_mask_is_as_large_as_its_image(segmented):
    classifier = frostline.load_classifier(segmented, model=small_model())
    assert classifier.task == "segmentation"
    assert classifier.preprocessing == dataclasses.replace(HOW, crop="squash", resize=SIZE)
    chance = np.random.default_rng(0)
    shapes = [(40, 40), (7, 90), (200, 33), (1, 1)]
    pictures = [chance.integers(0, 255, (*shape, 3)).astype(np.uint8) for shape in shapes]
    for answer, shape in zip(classifier.predict(pictures), shapes, strict=True):
        assert answer.mask.shape == shape
        assert answer.mask.dtype == np.uint8
        shares = {name: float((answer.mask == i).mean()) for i, name in enumerate(classifier.classes)}
        assert dict(answer.top) == pytest.approx(shares, abs=1e-6)


def test_a_fitted_segmentation_finds_the_halves(segmented):
    images = halves().valid
    predicted = list(frostline.load_classifier(segmented, model=small_model()).predict_images(images))
    right = [np.mean(answer.mask == np.asarray(images.targets.read(i))) for i, answer in enumerate(predicted)]
    assert np.mean(right) > 0.8


def test_the_mask_of_an_image_is_the_same_in_any_company(segmented):
    classifier = frostline.load_classifier(segmented, model=small_model())
    images = halves().valid
    for picture, answer in zip(images.pictures, classifier.predict_images(images), strict=True):
        (alone,) = classifier.predict([picture])
        assert np.mean(alone.mask == answer.mask) > 0.999
        assert alone.probability == pytest.approx(answer.probability, abs=1e-4)


def test_an_unreadable_image_has_an_error_and_no_mask(segmented, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    classifier = frostline.load_classifier(segmented, model=small_model())
    bad, good = classifier.predict([tmp_path / "bad.png", halves().valid.pictures[0]])
    assert bad.error
    assert (bad.label, bad.mask) == ("", None)
    assert good.mask is not None
    assert bad.as_json().keys() == {"path", "error"}
    assert good.as_json().keys() == {"path", "label", "probability", "top"}


@pytest.mark.parametrize("task", ["classification", "multilabel", "segmentation"])
def test_what_is_saved_loads_with_the_same_logits(task, run, labelled, segmented):
    run = {"classification": run, "multilabel": labelled, "segmentation": segmented}[task]
    about = json.loads((run.path / "model" / "model.json").read_text())
    assert (about["format"], about["task"]) == (2, task)
    state = load_file(run.path / "model" / "model.safetensors")
    loaded = frostline.load_classifier(run, model=small_model())
    assert not loaded.model.training
    assert state.keys() == loaded.model.state_dict().keys()
    assert all(torch.equal(value, loaded.model.state_dict()[name].cpu()) for name, value in state.items())
    own = {name.split(".")[0] for name in state}
    assert own <= {name for name, _ in small_model().named_children()} | {"segmentation"}


def test_golden_examples_are_reproduced(run, labelled):
    for made in (run, labelled):
        classifier = frostline.load_classifier(made, model=small_model())
        golden = load_file(made.path / "model" / "golden.safetensors")
        predicted = task_of(classifier.task).probabilities(classifier.run(golden["pixels"]))
        assert len(predicted) == 8
        torch.testing.assert_close(predicted, golden["probabilities"], rtol=0, atol=0.1)


@pytest.mark.parametrize("missing", ["task", "heads", "classes", "preprocessing", "backbone"])
def test_a_description_that_lacks_something_is_corrupt(run, tmp_path, missing):
    shutil.copytree(run.path, tmp_path / "run")
    file = tmp_path / "run" / "model" / "model.json"
    about = json.loads(file.read_text())
    del about[missing]
    file.write_text(json.dumps(about))
    with pytest.raises(WeightsError, match="model.json lacks one of task, backbone"):
        frostline.load_classifier(tmp_path / "run", model=small_model())


def test_a_mask_in_the_size_of_its_image_says_what_all_classes_upsampled_say():
    logits = torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = functional.interpolate(logits[None], (9, 31), mode="bilinear", align_corners=False)[0].argmax(0)
    assert np.array_equal(mask_at(logits, 9, 31), whole.numpy())
    assert np.array_equal(mask_at(logits, 4, 4), logits.argmax(0).numpy())
