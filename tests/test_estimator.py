"""FrostlineClassifier has scikit-learn's manners: its own checks are run, on numbers that are drawn as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

import frostline
from conftest import draw_images, small_backbone, write_photos
from frostline import FrostlineClassifier


class OfTables(FrostlineClassifier):
    """The same for rows of numbers, because that is what scikit-learn's checks have: each is drawn as a picture."""

    def fit(self, X: Any, y: Any) -> OfTables:  # noqa: N803
        X, y = validate_data(self, X, y, multi_output=True)
        super().fit(_drawn(X), y)
        return self

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        check_is_fitted(self)
        if self.classifier_.task == "multilabel":
            return super().predict(_drawn(validate_data(self, X, reset=False)))
        return super().predict(X)

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        check_is_fitted(self)
        return super().predict_proba(_drawn(validate_data(self, X, reset=False)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


def _drawn(rows: np.ndarray) -> np.ndarray:
    """Rows (N, F) as pictures (N, 16, 16, 3): a grey field per number, from -8 to 8."""
    shades = np.clip(128 + 16 * rows, 0, 255).astype(np.uint8)
    side = int(np.ceil(np.sqrt(rows.shape[1])))
    fields = np.full((len(rows), side * side), 128, np.uint8)
    fields[:, : rows.shape[1]] = shades
    pictures = np.kron(fields.reshape(-1, side, side), np.ones((1, -(-16 // side), -(-16 // side)), np.uint8))
    return np.repeat(pictures[..., None], 3, 3)


class Pixels(nn.Module):
    """A network whose features are the pixels, 8 by 8 of them."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(8)
        self.flat = nn.Flatten()
        self.head = nn.Linear(192, classes)

    def forward(self, x: Any) -> Any:
        return self.head(self.flat(self.pool(x)))


PLAIN = {"image_size": 16, "plan": "probe", "augment": "none", "precision": "fp32", "cache": False}
NOT_OF_IT = {"check_estimators_overwrite_params": "joblib gives a copy of a torch module another hash; tested below"}


@pytest.fixture
def cheaply(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred runs that nobody keeps: they need not reach the disk, nor have cards and the best of six penalties."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("frostline.fitting.finish.write_card", lambda _: None)
    monkeypatch.setattr("frostline.training.probe.CS", (0.1, 1.0))


@pytest.mark.long
@parametrize_with_checks([OfTables(backbone=Pixels(), **PLAIN)], expected_failed_checks=lambda _: NOT_OF_IT)
def test_scikit_learns_own_checks(estimator, check, cheaply):
    check(estimator)


OPTIONS = {"plan": "probe", "image_size": 32}


@pytest.fixture(scope="module")
def images() -> Any:
    return draw_images(45)


@pytest.mark.parametrize(
    "names", [np.array([3, 1, 20]), np.array(["c", "a", "b"]), np.array([True, False]), np.array([2.0, 1.0, 10.0])]
)
def test_labels_come_back_as_they_were_given(images, names):
    kinds = images.targets % len(names)
    pictures = draw_images(45, len(names)).pictures
    classifier = FrostlineClassifier(backbone=small_backbone(), **OPTIONS).fit(pictures, names[kinds])
    assert classifier.classes_.tolist() == sorted(names.tolist())
    assert classifier.classes_.dtype == names.dtype
    predicted = classifier.predict(pictures)
    assert predicted.dtype == names.dtype
    assert np.mean(predicted == names[kinds]) > 0.6
    probabilities = classifier.predict_proba(pictures)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert (classifier.classes_[probabilities.argmax(1)] == predicted).all()
    assert classifier.score(pictures, names[kinds]) == np.mean(predicted == names[kinds])


def test_what_it_answers_is_what_frostline_fit_would(images, tmp_path):
    classifier = FrostlineClassifier(backbone=small_backbone(), **OPTIONS).fit(images.pictures, images.targets)
    data = (list(images.pictures), images.targets)
    run = frostline.fit(data, backbone=small_backbone(), out=tmp_path / "run", quiet=True, report=False, **OPTIONS)
    theirs = frostline.load(run, small_backbone().model).predict_proba(images.pictures)
    np.testing.assert_array_equal(classifier.predict_proba(images.pictures), theirs)
    assert classifier.metrics_["valid"] == run.metrics["valid"]


@pytest.mark.long
def test_paths_in_a_pipeline_cross_validated_and_searched(tmp_path, own_cache):
    write_photos(tmp_path / "photos", 15)
    paths = sorted(map(str, (tmp_path / "photos").rglob("*.png")))
    labels = [Path(path).parent.name for path in paths]
    classifier = make_pipeline(FunctionTransformer(), FrostlineClassifier(backbone=small_backbone(), **OPTIONS))
    scores = cross_val_score(classifier, paths, labels, cv=3)
    assert scores.mean() > 0.7
    search = GridSearchCV(classifier, {"frostlineclassifier__balanced": [True, False]}, cv=2, refit=False)
    assert len(search.fit(paths, labels).cv_results_["mean_test_score"]) == 2
    assert not list(tmp_path.glob("runs*"))


def test_several_labels_per_image(images):
    marks = np.stack([images.targets == 0, images.targets != 1], 1).astype(int)
    classifier = FrostlineClassifier(backbone=small_backbone(), **OPTIONS).fit(images.pictures, marks)
    assert classifier.classes_.tolist() == [0, 1]
    assert classifier.predict(images.pictures).shape == marks.shape
    assert classifier.predict_proba(images.pictures[0]).shape == (1, 2)


def test_the_parameters_are_the_options_of_a_fit_and_its_backbone_stays_as_it_was(images):
    backbone = small_backbone()
    state = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    classifier = FrostlineClassifier(backbone=backbone, **OPTIONS)
    assert clone(classifier).get_params()["plan"] == "probe"
    assert {"backbone", "plan", "seed", "device", "lr"} <= classifier.get_params().keys()
    assert not {"data", "path_column"} & classifier.get_params().keys()
    classifier.fit(images.pictures, images.targets)
    assert classifier.backbone is backbone
    assert all((value == state[name]).all() for name, value in backbone.model.state_dict().items())


def test_a_run_is_left_where_out_says_so(images, tmp_path):
    out = tmp_path / "run"
    FrostlineClassifier(backbone=small_backbone(), out=out, **OPTIONS).fit(images.pictures, images.targets)
    assert frostline.load_run(out).metrics["valid"]["accuracy"] > 0.5


def test_wrong_parameters_and_labels_are_told(images):
    with pytest.raises(TypeError, match="no parameter 'plans'"):
        FrostlineClassifier(plans="probe")
    with pytest.raises(frostline.FrostlineError, match="plan"):
        FrostlineClassifier(plan="prob").fit(images.pictures, images.targets)
    with pytest.raises(ValueError, match="only one class, np.int64\\(0\\)"):
        FrostlineClassifier().fit(images.pictures, np.zeros(45, int))
    with pytest.raises(ValueError, match="Unknown label type"):
        FrostlineClassifier().fit(images.pictures, np.linspace(0, 1, 45))


def test_three_grey_images_have_three_answers():
    x = np.random.default_rng(0).integers(0, 256, (12, 20, 24)).astype(np.uint8)
    estimator = frostline.FrostlineClassifier(backbone="timm:test_resnet", weights="none", image_size=32, plan="probe")
    estimator.fit(x, np.array([0, 1] * 6))
    for count in (1, 2, 3, 4, 5):
        assert estimator.predict(x[:count]).shape == (count,)


def test_a_folder_is_no_row(tmp_path):
    photos = write_photos(tmp_path / "photos", 3)
    files = sorted(photos.rglob("*.png"))
    labels = [file.parent.name for file in files]
    estimator = FrostlineClassifier(backbone=small_backbone(), **PLAIN)
    with pytest.raises(frostline.errors.UsageError, match="a row is one image, but .*flat is a folder; give its files"):
        estimator.fit([*files[1:], photos / "flat"], labels)
    estimator.fit(files, labels)
    for rows in (str(photos), [files[0], str(photos)]):
        with pytest.raises(frostline.errors.UsageError, match="a row is one image, but .*photos is a folder"):
            estimator.predict(rows)
