"""Cross-validation: every image is held out once, by classes and groups; the figures are those of the folds."""

from __future__ import annotations

import json
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import frostline
from conftest import draw_images, small_backbone, write_photos
from frostline.cli import main
from frostline.data.images import Images, ImageSet
from frostline.errors import UsageError
from frostline.verbs.cross_validate import folded
from tasks_data import several_labels


def labelled(targets: np.ndarray, groups: dict[str, str] | None = None) -> ImageSet:
    names = [f"image {i}" for i in range(len(targets))]
    images = Images([np.full((4, 4), i, np.uint8) for i in range(len(targets))], targets, names)
    cut = max(1, len(targets) // 3)
    classes = tuple(map(str, range(int(targets.max()) + 1)))
    return ImageSet(
        "data",
        classes,
        images.take(np.arange(cut, len(targets))),
        images.take(np.arange(cut)),
        images.take(np.arange(1)),
        groups=groups or {},
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=12, max_size=60), st.integers(2, 5), st.integers(0, 3))
def test_every_image_is_held_out_once_and_every_class_is_spread(labels, folds, seed):
    targets = np.array(labels)
    counts = np.bincount(targets)
    if counts[counts > 1].sum() < folds:
        return
    parts = list(folded(labelled(targets), folds, seed))
    held_out = [name for part in parts for name in part.valid.names]
    alone = {f"image {i}" for i, label in enumerate(labels) if counts[label] == 1}
    assert sorted(held_out) == sorted({f"image {i}" for i in range(len(labels))} - alone)
    for part in parts:
        assert not {*part.train.names} & {*part.valid.names}
        assert len(part.train) + len(part.valid) == len(labels)
        assert part.test is None
        for label, count in enumerate(counts):
            own = int((part.valid.targets == label).sum())
            assert own <= -(-count // folds) + 1
            assert count < 2 or own < count  # some are left to learn from


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=20, max_size=60), st.integers(2, 4))
def test_a_group_is_never_in_both(of, folds):
    groups = {f"image {i}": f"g{number}" for i, number in enumerate(of)}
    alone = [{*of[label::2]} for label in (0, 1)]  # a class that is all in one group keeps it in training
    if len({*of} - {one for own in alone if len(own) == 1 for one in own}) < folds:
        return
    for part in folded(labelled(np.arange(len(of)) % 2, groups), folds):
        train, valid = ({groups[name] for name in side.names} for side in (part.train, part.valid))
        assert not train & valid


def test_the_same_seed_makes_the_same_folds():
    data = labelled(np.arange(30) % 3)
    first, again, other = ([list(part.valid.names) for part in folded(data, 3, seed)] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_figures_are_those_of_the_folds(tmp_path):
    images = draw_images(60)
    data = ([np.asarray(picture) for picture in images.pictures], images.targets)
    options = {"backbone": small_backbone(), "plan": "probe", "quiet": True, "report": False}
    result = frostline.cross_validate(data, 3, out=tmp_path / "folds", **options)
    accuracies = [frostline.load_run(fold["run"]).metrics["valid"]["accuracy"] for fold in result["folds"]]
    assert result["mean"]["accuracy"] == pytest.approx(statistics.mean(accuracies))
    assert result["sd"]["accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
    assert result["pooled"]["n"] == sum(fold["n"] for fold in result["folds"]) == 60
    assert result["pooled"]["accuracy"] == pytest.approx(
        sum(fold["n"] * fold["accuracy"] for fold in result["folds"]) / 60
    )
    assert json.loads((tmp_path / "folds" / "folds.json").read_text()) == result


def test_several_labels_have_their_own_figures(tmp_path):
    options = {"backbone": small_backbone(), "plan": "probe", "quiet": True, "report": False}
    result = frostline.cross_validate(several_labels(), 2, out=tmp_path / "folds", **options)
    assert {"mean_ap", "accuracy"} <= result["mean"].keys()


def test_the_command_line(tmp_path, capsys):
    photos = write_photos(tmp_path / "photos", 15)
    tiny = ["--backbone", "torchvision:mobilenet_v3_small", "--weights", "none", "--image-size", "32", "--no-report"]
    with pytest.raises(SystemExit, match="0"):
        main(["fit", str(photos), "--folds", "3", "--plan", "probe", "--out", str(tmp_path / "f"), *tiny])
    shown = capsys.readouterr().out
    assert "accuracy" in shown
    assert " ± " in shown
    assert "each predicted by the network that had not seen it" in shown
    assert [path.name for path in sorted((tmp_path / "f").iterdir())] == ["fold-1", "fold-2", "fold-3", "folds.json"]


@pytest.mark.parametrize(
    ("folds", "words"), [(1, "must be 2 … 50"), (51, "must be 2 … 50"), (40, "40 folds are too many for 30")]
)
def test_folds_that_cannot_be_are_refused(folds, words, tmp_path):
    images = draw_images(30)
    data = ([np.asarray(picture) for picture in images.pictures], images.targets)
    with pytest.raises(UsageError, match=words):
        frostline.cross_validate(data, folds, out=tmp_path / "folds", quiet=True)
    assert not (tmp_path / "folds").exists()


def test_an_image_and_its_copy_go_to_one_fold():
    chance = np.random.default_rng(0)
    pictures = chance.integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    both, targets = np.concatenate([pictures, pictures[:9]]), np.concatenate([np.arange(20) % 2, np.arange(9) % 2])
    images = Images(both, targets, [f"image {i}" for i in range(29)])
    data = ImageSet("data", ("a", "b"), images.take(np.arange(20)), images.take(np.arange(20, 29)))
    for part in folded(data, 4):
        train, valid = ({digest.tobytes() for digest in side.digests.all()} for side in (part.train, part.valid))
        assert not train & valid


def test_a_class_of_one_content_or_one_group_is_always_for_training():
    """It would be held out whole, by a network that has never seen it."""
    pictures = [np.full((4, 4), i, np.uint8) for i in range(20)] + [np.full((4, 4), 200, np.uint8)] * 2
    targets = np.array([*([0, 1] * 10), 2, 2])
    images = Images(pictures, targets, [f"image {i}" for i in range(22)])
    part = images.take(np.arange(18, 22))
    whole = ImageSet("data", ("a", "b", "c"), images.take(np.arange(18)), part)
    for fold in folded(whole, 4):
        assert (fold.train.targets == 2).sum() == 2
    groups = {f"image {i}": f"g{i % 5}" for i in range(20)} | {"image 20": "own", "image 21": "own"}
    for fold in folded(ImageSet("data", ("a", "b", "c"), images.take(np.arange(18)), part, groups=groups), 4):
        assert (fold.train.targets == 2).sum() == 2
