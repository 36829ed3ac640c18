from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import frostline
from conftest import SIZE, draw_images, small_model
from frostline.backbones import load_backbone
from frostline.errors import WeightsError
from frostline.preprocessing import Preprocessing


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
    assert [answer.path for answer in together][:2] == ["array 0", "array 1"]
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
    with pytest.raises(WeightsError, match="has format 99; this version of Frostline reads format 1"):
        frostline.load_classifier(tmp_path / "run", model=small_model())


def test_the_card_escapes_class_names(run):
    card = (run.path / "model" / "MODEL_CARD.md").read_text()
    assert "- flat\n- tall\n- plain" in card
