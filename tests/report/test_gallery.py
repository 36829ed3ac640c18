"""The pictures that a run leaves, of each task."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import frostline
from conftest import SIZE, draw_images, small_model
from frostline.backbones import load_backbone
from frostline.classifier.classifier import Classifier
from frostline.data.images import Images, ImageSet
from frostline.data.views import Views
from frostline.machine import find_machine
from frostline.plan import Phase
from frostline.preprocessing import Preprocessing
from frostline.report import gallery
from frostline.runs.run import Run
from frostline.tasks import task_of

HOW = Preprocessing(size=SIZE, resize=36)


@pytest.fixture
def drawn(monkeypatch):
    """What is handed to the sheets, by the name of the sheet."""
    seen = {}
    for name in ("curves", "confusion", "views_sheet", "mistakes_sheet", "overlay_sheet"):
        original = getattr(gallery, name)

        def watched(*sheet, name=name, original=original, **more):
            seen.setdefault(name, sheet)
            return original(*sheet, **more)

        monkeypatch.setattr(gallery, name, watched)
    return seen


def classifier_of(classes, task="classification", model=None) -> Classifier:
    return Classifier(model or small_model(), classes, HOW, find_machine("cpu", "fp32", 2), task)


def test_every_run_has_its_pictures(stripes, tmp_path, drawn):
    backbone = load_backbone(small_model(), preprocessing=HOW)
    plan = [Phase("head", epochs=0), Phase("block2", epochs=2, views=3)]
    run = frostline.fit(stripes, backbone=backbone, plan=plan, out=tmp_path / "run", quiet=True)
    names = {"curves.png", "curves.svg", "confusion.png", "confusion.svg", "views.png", "mistakes.png"}
    assert {file.name for file in (run.path / "plots").iterdir()} == names
    for name in names:
        if name.endswith(".png"):
            with Image.open(run.path / "plots" / name) as picture:
                assert min(picture.size) > 100
    history, tests = drawn["curves"]
    assert history == run.history
    assert tests == [phase["test"] for phase in run.metrics["phases"]]
    for test in tests:
        assert test["monitored_loss"] == pytest.approx(test["loss"], abs=1e-5)
    counts, classes = drawn["confusion"]
    assert (counts.total, classes) == (24, ("flat", "tall", "plain"))
    assert counts.right.sum() / 24 == pytest.approx(run.metrics["valid"]["accuracy"])
    assert drawn["views_sheet"][0].shape == (5, 3, SIZE, SIZE, 3)


def test_pictures_that_cannot_be_written_do_not_cost_the_run(stripes, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gallery, "save", full)
    backbone = load_backbone(small_model(), preprocessing=HOW)
    run = frostline.fit(stripes, backbone=backbone, plan="probe", out=tmp_path / "run")
    assert "the pictures could not be drawn" in capsys.readouterr().err
    assert run.metrics["valid"]["n"] == 24


def test_the_worst_mistakes_come_first_and_only_mistakes(tmp_path, drawn):
    valid, task = draw_images(6), task_of("classification")
    logits = torch.eye(3)[torch.from_numpy(valid.targets)] * 4
    logits[1] = torch.tensor([9.0, 0, 0])
    logits[5] = torch.tensor([0, 30.0, 0])
    outputs = task.outputs(logits, torch.from_numpy(valid.targets))
    gallery.draw_predictions(Run(tmp_path), classifier_of(("flat", "tall", "plain")), valid, outputs)
    pictures, captions = drawn["mistakes_sheet"]
    assert captions == ["plain → tall 1.00", "tall → flat 1.00"]
    assert pictures.shape == (2, SIZE, SIZE, 3)


def test_without_mistakes_there_is_still_a_sheet(tmp_path, drawn):
    valid, task = draw_images(6), task_of("classification")
    outputs = task.outputs(torch.eye(3)[torch.from_numpy(valid.targets)], torch.from_numpy(valid.targets))
    gallery.draw_predictions(Run(tmp_path), classifier_of(("flat", "tall", "plain")), valid, outputs)
    assert len(drawn["mistakes_sheet"][0]) == 0
    assert (tmp_path / "plots" / "mistakes.png").is_file()


def test_several_labels_have_mistakes_and_no_confusion(tmp_path, drawn):
    images = draw_images(2)
    labels = np.array([[True, True], [False, False]])
    outputs = task_of("multilabel").outputs(torch.tensor([[9.0, -9.0], [-9.0, -9.0]]), torch.from_numpy(labels).float())
    valid = Images(images.pictures, labels, images.names)
    gallery.draw_predictions(Run(tmp_path), classifier_of(("a", "b"), "multilabel"), valid, outputs)
    assert "confusion" not in drawn
    assert drawn["mistakes_sheet"][1] == ["a|b → a 1.00"]


@pytest.mark.parametrize("count", [1, 3, 50])
def test_views_are_those_that_training_sees(count, tmp_path, drawn):
    from frostline.data.views import pixels

    train, views = draw_images(count), Views(2, seed=5)
    gallery.draw_views(Run(tmp_path), classifier_of(("flat", "tall", "plain")), train, views)
    grid, titles = drawn["views_sheet"]
    assert len(titles) == len(grid) == min(5, count)
    for title, row in zip(titles, grid, strict=True):
        i = list(train.names).index(title)
        assert np.array_equal(row, pixels(train.pictures[i], train.digests[i], [0, 1], views, HOW))


def test_a_data_set_of_one_validation_image_can_be_drawn(tmp_path):
    whole = draw_images(24)
    data = ImageSet("one", ("flat", "tall", "plain"), whole, whole.take(np.array([0])))
    backbone = load_backbone(small_model(), preprocessing=HOW)
    run = frostline.fit(data, backbone=backbone, plan="probe", out=tmp_path / "run", quiet=True)
    assert (run.path / "plots" / "curves.png").is_file()
