"""The pictures that a run leaves, of each task."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import frostline
from conftest import SIZE, draw_images, small_model
from frostline.backbones import load_backbone
from frostline.data.images import Images, ImageSet
from frostline.plan import Phase
from frostline.preprocessing import Preprocessing
from frostline.report import gallery, shots
from frostline.report.pictures import Shot
from frostline.report.shots import Mistakes, Shots
from frostline.runs.run import Run
from frostline.tasks import task_of
from tasks_data import halves, several_labels

HOW = Preprocessing(size=SIZE, resize=36)


@pytest.fixture
def drawn(monkeypatch):
    """What is handed to the figures, by the name of the figure."""
    seen = {}
    for name in ("curves", "confusion", "views_sheet", "mistakes_sheet", "overlay_sheet"):
        original = getattr(gallery, name)

        def watched(*sheet, name=name, original=original, **more):
            seen.setdefault(name, []).append((*sheet, *more.values()))
            return original(*sheet, **more)

        monkeypatch.setattr(gallery, name, watched)
    return seen


@pytest.fixture
def opened(monkeypatch):
    """How often each picture of a data set is decoded for what is shown."""
    counts = Counter()
    original = shots.decoded

    def watched(images, samples, *others):
        counts.update((images.names[i], view) for i, views in samples.items() for view in views)
        return original(images, samples, *others)

    monkeypatch.setattr(shots, "decoded", watched)
    return counts


def fitted(data, folder, plan, **options):
    backbone = load_backbone(small_model(), preprocessing=HOW)
    return frostline.fit(data, backbone=backbone, plan=plan, out=folder / "run", quiet=True, **options)


def files(run) -> set[str]:
    return {file.name for file in (run.path / "plots").iterdir()}


CONFUSIONS = {"confusion.png", "confusion.svg", "confusion-test.png", "confusion-test.svg"}


def test_every_run_has_its_pictures(stripes, tmp_path, drawn):
    run = fitted(stripes, tmp_path, [Phase("head", epochs=0), Phase("block2", epochs=2, views=3)])
    assert files(run) == {"curves.png", "curves.svg", "views.png", "mistakes.png"} | CONFUSIONS
    for file in (run.path / "plots").glob("*.png"):
        with Image.open(file) as picture:
            assert min(picture.size) > 100
    metrics = run.metrics
    ((history, kept, tests, measure, title),) = drawn["curves"]
    assert history == run.history
    assert kept == [phase["kept_epoch"] for phase in metrics["phases"]]
    assert tests == [phase["test"] for phase in metrics["phases"]]
    for test in tests:
        assert test["monitored_loss"] == pytest.approx(test["loss"], abs=1e-5)
    assert measure == ("accuracy", "accuracy")
    assert title == f"stripes · {metrics['backbone']['name']} · validation, n = 24 · test, n = 24"
    for split, (counts, classes, of) in zip(("valid", "test"), drawn["confusion"], strict=True):
        assert (counts.total, classes) == (24, ("flat", "tall", "plain"))
        assert counts.right.sum() / 24 == pytest.approx(metrics[split]["accuracy"])
        assert of == {"valid": "Validation accuracy", "test": "Test accuracy"}[split]
    assert drawn["views_sheet"][0][0].shape == (5, 3, SIZE, SIZE, 3)


def test_a_head_that_was_solved_has_no_curves_and_plain_images_no_sheet(stripes, tmp_path):
    run = fitted(stripes, tmp_path, "probe")
    assert files(run) == {"mistakes.png"} | CONFUSIONS


def test_without_test_images_there_is_one_confusion(stripes, tmp_path):
    run = fitted(replace(stripes, test=None), tmp_path, "probe")
    assert files(run) == {"confusion.png", "confusion.svg", "mistakes.png"}


@pytest.mark.usefixtures("reports")
def test_an_image_is_decoded_once_for_plots_and_page(stripes, tmp_path, opened, monkeypatch):
    monkeypatch.setattr("frostline.fitting.finish._found", lambda *_: {})  # findings have pictures of their own
    valid = Images(stripes.valid.pictures[:9], stripes.valid.targets[:9], [f"valid-{i}" for i in range(9)])
    few = replace(stripes, valid=valid, test=None)  # so few that there is no map
    run = fitted(few, tmp_path, [Phase("head", epochs=1, views=3)])
    assert 'id="views"' in (run.path / "report.html").read_text()
    views = {key: n for key, n in opened.items() if key[1] > 0}
    measured = {key: n for key, n in opened.items() if key[0].startswith("valid")}
    assert (len(views), len(measured)) == (10, 9)  # five images; all that are wrong, and all that are right
    assert {*views.values(), *measured.values()} == {1}


def test_pictures_that_cannot_be_written_do_not_cost_the_run(stripes, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gallery, "save", full)
    backbone = load_backbone(small_model(), preprocessing=HOW)
    run = frostline.fit(stripes, backbone=backbone, plan="probe", out=tmp_path / "run")
    assert "the pictures could not be drawn" in capsys.readouterr().err
    assert run.metrics["valid"]["n"] == 24


@pytest.mark.parametrize(
    ("images", "measure"),
    [(several_labels(), ("mean_ap", "mean AP")), (halves(), ("mean_iou", "mean IoU"))],
    ids=["several labels", "masks"],
)
def test_curves_are_of_what_the_task_is_judged_by(images, measure, tmp_path, drawn):
    run = fitted(images, tmp_path, [Phase("head", epochs=2, views=1)])
    ((history, _, tests, key, _),) = drawn["curves"]
    assert key == measure
    assert all(isinstance(epoch[f"valid_{measure[0]}"], float) for epoch in history)
    assert measure[0] in tests[0]
    expected = {"confusion-test.png", "confusion.png", "overlays.png"} if measure[0] == "mean_iou" else set()
    assert {"curves.png", "mistakes.png"} | expected == {name for name in files(run) if name.endswith(".png")}


def test_masks_have_their_names_and_values(tmp_path, drawn):
    data, colours = halves(), (0xFFFFFF, 0xFF00C8)
    data = data.with_splits({"train": replace(data.train, targets=replace(data.train.targets, painted=colours))})
    run = fitted(data, tmp_path, [Phase("head", epochs=2, views=1)])
    ious = {record["path"]: record["mean_iou"] for record in run.predictions if record["split"] == "valid"}
    (usual, classes, evenly, *told), (worst, _, lowest, also) = drawn["overlay_sheet"]
    assert classes == ("dark", "bright")
    assert (*told, also) == (colours, colours)
    assert evenly == "6 of 16 validation images, evenly spread"
    assert lowest == "6 of 16 validation images, the lowest mean IoU first"
    assert [own.iou for own in worst] == pytest.approx(sorted(ious.values())[:6], abs=1e-5)
    for own in [*usual, *worst]:
        assert own.iou == pytest.approx(ious[own.name], abs=1e-5)
        both = [((own.truth == c) & (own.predicted == c)).sum() for c in (0, 1)]
        either = [((own.truth == c) | (own.predicted == c)).sum() for c in (0, 1)]
        assert own.iou == pytest.approx(np.mean([b / e for b, e in zip(both, either, strict=True) if e]), abs=0.02)


def test_several_labels_have_no_confusion(tmp_path):
    labels = torch.tensor([[1.0, 0.0]])
    outputs = task_of("multilabel").outputs(torch.tensor([[9.0, -9.0]]), labels)
    gallery.draw_confusion(Run(tmp_path), "confusion", "validation", outputs, ("a", "b"))
    assert not (tmp_path / "plots").exists()


def test_without_mistakes_there_is_still_a_sheet(tmp_path, drawn):
    nothing = Shots(wrong={"valid": Mistakes(0, [])})
    gallery.draw_shots(Run(tmp_path), nothing, "validation", 6, ("a", "b"))
    assert drawn["mistakes_sheet"] == [([], 0, "6 validation images")]
    assert (tmp_path / "plots" / "mistakes.png").is_file()


def test_only_so_many_mistakes_are_drawn(tmp_path, drawn):
    many = [Shot(i, f"{i}.jpg", "a", "b", 0.9, np.zeros((8, 8, 1), np.uint8)) for i in range(24)]
    gallery.draw_shots(Run(tmp_path), Shots(wrong={"valid": Mistakes(55, many)}), "cross-fitted", 100, ("a", "b"))
    ((shown, count, of),) = drawn["mistakes_sheet"]
    assert (len(shown), count, of) == (gallery.MISTAKES, 55, "100 cross-fitted images")


def test_a_data_set_of_one_validation_image_can_be_drawn(tmp_path):
    whole = draw_images(24)
    data = ImageSet("one", ("flat", "tall", "plain"), whole, whole.take(np.array([0])))
    run = fitted(data, tmp_path, [Phase("head", epochs=1)])
    assert (run.path / "plots" / "curves.png").is_file()
