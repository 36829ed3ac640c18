"""The class of every pixel: from a folder of masks to masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import frostline
from conftest import SIZE, small_model
from frostline.backbones import load_backbone
from frostline.errors import DataError, UsageError
from frostline.plan import Phase
from frostline.preprocessing import Preprocessing
from frostline.report.shots import Shots
from frostline.runs.run import Run

PLAN = [Phase("head", epochs=0), Phase("block1", epochs=3, lr=1e-2, views=2)]


def write_shapes(root: Path, count: int, seed: int = 0) -> Path:
    """Bright squares and dark bars on grey noise, with their masks: 0 for the ground, 1 and 2."""
    chance = np.random.default_rng(seed)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("ground\nsquare\nbar\n")
    for i in range(count):
        picture, mask = chance.integers(90, 160, (48, 40, 3)), np.zeros((48, 40), np.uint8)
        top, left = chance.integers(0, 12, 2)
        mask[top : top + 16, left : left + 16] = 1
        mask[32 + top // 2 : 40 + top // 2, left : left + 24] = 2
        picture[mask == 1] = (230, 200, 40)
        picture[mask == 2] = (20, 30, 150)
        Image.fromarray(picture.astype(np.uint8)).save(root / "images" / f"{i:02}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i:02}.png")
    return root


def fitted(data: Path, out: Path, **options: object) -> Run:
    backbone = load_backbone(small_model(), preprocessing=Preprocessing(size=SIZE, resize=36))
    return frostline.fit(data, **{"backbone": backbone, "plan": PLAN, "quiet": True, "out": out, **options})


@pytest.fixture(scope="module")
def segmented(tmp_path_factory) -> tuple[Run, Path]:
    folder = tmp_path_factory.mktemp("segmented")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROSTLINE_CACHE", str(folder / "cache"))
        data = write_shapes(folder / "shapes", 40)
        return fitted(data, folder / "run", epochs=12), data


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def majority_iou(data: Path, classes: int) -> float:
    values = np.concatenate([pixels(file).ravel() for file in (data / "masks").glob("*.png")])
    return float(np.bincount(values).max() / len(values) / classes)


def test_it_beats_the_most_frequent_class_by_far(segmented):
    run, data = segmented
    assert run.metrics["task"] == "segmentation"
    assert run.classes == ("ground", "square", "bar")
    assert run.metrics["valid"]["mean_iou"] > majority_iou(data, 3) + 0.2
    assert run.metrics["valid"]["accuracy"] > 0.75  # 0.78 to 0.81 by the seed
    assert set(run.metrics["valid"]["per_class"]) == {"ground", "square", "bar"}


def test_the_run_has_its_pictures(segmented):
    run, _ = segmented
    for name in ("curves.png", "confusion.png", "overlays.png", "mistakes.png", "views.png"):
        with Image.open(run.path / "plots" / name) as picture:
            assert min(picture.size) > 100, name


def test_what_is_frozen_is_stored_as_for_every_task(segmented, tmp_path, monkeypatch):
    run, data = segmented
    monkeypatch.setenv("FROSTLINE_CACHE", str(tmp_path / "cache"))
    assert all(phase["cached_bytes"] for phase in run.metrics["phases"])
    monkeypatch.setenv("FROSTLINE_CACHE", str(run.path.parent / "cache"))
    monkeypatch.setattr("frostline.store.filling.fastest", lambda *_: pytest.fail("the frozen part ran again"))
    monkeypatch.setattr("frostline.report.shots.shots_of", lambda *_: Shots())
    again = fitted(data, tmp_path / "again", epochs=1)
    assert [phase["computed"] for phase in again.metrics["phases"]] == [0, 0]


def test_masks_are_as_large_as_their_images_and_right(segmented):
    run, data = segmented
    files = sorted((data / "images").glob("*.png"))
    answers = list(frostline.load(run, model=small_model()).predictions(files))
    shares = []
    for file, answer in zip(files, answers, strict=True):
        truth = pixels(data / "masks" / file.name)
        assert answer.mask.shape == truth.shape == (48, 40)
        assert answer.mask.dtype == np.uint8
        shares.append((answer.mask == truth).mean())
        assert answer.label == "ground"
        assert sum(p for _, p in answer.top) == pytest.approx(1)
    assert np.mean(shares) > 0.8


def test_evaluate_measures_the_same_pixels(segmented):
    run, data = segmented
    measured = frostline.evaluate(run, data, model=small_model())
    assert measured["n"] == 40
    assert measured["mean_iou"] == pytest.approx(run.metrics["valid"]["mean_iou"], abs=0.1)


def test_what_knows_nothing_of_masks_is_refused(tmp_path):
    data = write_shapes(tmp_path / "shapes", 10)
    for options, message in (
        ({"augment": lambda image: image}, "would augment images but not their masks"),
        ({"balanced": True}, "use class_weights='balanced'"),
        ({"loss": "bce"}, "loss 'bce' does not fit these labels"),
    ):
        with pytest.raises(UsageError, match=message):
            fitted(data, tmp_path / "run", **options)
        assert not (tmp_path / "run").exists()


def test_a_mask_of_another_size_is_named(tmp_path):
    data = write_shapes(tmp_path / "shapes", 10)
    Image.new("L", (9, 9)).save(data / "masks" / "03.png")
    with pytest.raises(DataError, match=r"03\.png: 9 × 9 pixels, but its image has 40 × 48"):
        fitted(data, tmp_path / "run")


def test_a_class_that_no_validation_mask_shows_is_named(tmp_path, capsys):
    data = write_shapes(tmp_path / "shapes", 6)
    for file in sorted((data / "masks").iterdir())[1:]:  # one mask has the bar, so that it may only be in training
        mask = pixels(file).copy()
        mask[mask == 2] = 0
        Image.fromarray(mask).save(file)
    metrics = fitted(data, tmp_path / "run", epochs=1, quiet=False, report=False).metrics
    absent = [name for name, figures in metrics["valid"]["per_class"].items() if not figures["n"]]
    assert absent == ["bar"]
    assert "note: not in any validation mask, so nothing measures it: bar" in capsys.readouterr().err
