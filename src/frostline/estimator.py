"""A fit with scikit-learn's estimator interface, for its pipelines, cross-validation and searches.

    from sklearn.model_selection import cross_val_score

    cross_val_score(FrostlineClassifier(plan="probe"), paths, labels, cv=5)

The frozen part runs once here as well: all folds and all candidates of a search share the cache.
"""

from __future__ import annotations

import dataclasses
import inspect
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted
from torch import nn

from frostline.classifier.artifact import load
from frostline.classifier.classifier import CHANNELS, Classifier, as_several
from frostline.errors import UsageError
from frostline.fitting.options import Options
from frostline.machine import find_machine
from frostline.runs.run import Run
from frostline.verbs.fit import fit

OF_DATA = ("data", "download", "group", "path_column", "label_column", "images")  # options for reading files
DEFAULTS = {"quiet": True, "report": False}


def _parameters() -> inspect.Signature:
    """The options of a fit without those of its data; scikit-learn reads an estimator's parameters off a signature."""
    kind = inspect.Parameter.KEYWORD_ONLY
    options = {field.name: field.default for field in dataclasses.fields(Options) if field.name not in OF_DATA}
    own = [inspect.Parameter(name, kind, default=value) for name, value in (options | DEFAULTS).items()]
    return inspect.Signature([inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD), *own])


class FrostlineClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """An image classifier with scikit-learn's interface.

        classifier = FrostlineClassifier(plan="probe").fit(images, labels)
        classifier.predict(others)

    Its parameters are the options of `frostline.fit`, except those for reading files. It prints nothing and writes
    no run unless `out` names a folder. A fit holds out a fifth of its images for validation, as `frostline.fit` does.

    After `fit` it has `classes_`, the labels in the order of the columns of `predict_proba` and in their original type
    (for several labels per image the column numbers); `classifier_`, the `Classifier`; and `metrics_`,
    the metrics of `frostline.fit`.
    """

    def __init__(self, **options: Any) -> None:
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            if name != "self":
                setattr(self, name, options.pop(name, parameter.default))
        if options:
            raise TypeError(f"{type(self).__name__} has no parameter {next(iter(options))!r}")

    __init__.__signature__ = _parameters()  # type: ignore[attr-defined]

    def fit(self, X: Any, y: Any) -> FrostlineClassifier:  # noqa: N803
        """Fit on images and their labels.

        X: N paths, PIL images or arrays (H, W), (H, W, 3) of uint8 or floats 0 … 1; or arrays (N, H, W),
            (N, H, W, 3); or a DataFrame with a column of paths.
        y: (N,) labels of any type; or (N, classes) of 0 and 1 for several labels per image.

        Raises ValueError for labels that are not classes, UsageError for a folder as a row, and UsageError and
        DataError as `frostline.fit` does.
        """
        y = y.toarray() if hasattr(y, "toarray") else y  # sparse rows of several labels
        check_classification_targets(y)
        several = type_of_target(y) == "multilabel-indicator"
        labels = np.asarray(y) if several else column_or_1d(y, warn=True)
        classes = np.arange(labels.shape[1]) if several else np.unique(labels)
        if len(classes) < 2:
            raise ValueError(f"the labels hold only one class, {classes[0]!r}; a classifier needs at least two")
        options = self.get_params()
        with tempfile.TemporaryDirectory() as folder:
            options["out"] = self.out or Path(folder) / "run"
            run = fit((_rows(X), labels if several else _as_names(labels)), **options)
            self.metrics_: dict[str, Any] = run.metrics
            self.classifier_: Classifier = self._loaded(run)
        self.classes_: np.ndarray = classes
        return self

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """The label of each image, (N,) in the type of `classes_`; for several labels per image (N, classes) of 0 and
        1.

        Raises DataError for an image that cannot be read, scikit-learn's NotFittedError before `fit`.
        """
        check_is_fitted(self)
        if self.classifier_.task == "multilabel":
            return np.asarray(self.classifier_.predict(_rows(X))).astype(int)
        return np.asarray(self.classes_[self.predict_proba(X).argmax(1)])

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """The probability of each class for each image, (N, classes) of float32, with columns in the order of
        `classes_`.

        Raises as `predict` does.
        """
        check_is_fitted(self)
        probabilities = self.classifier_.predict_proba(_rows(X))
        if self.classifier_.task == "multilabel":
            return probabilities
        place = {name: i for i, name in enumerate(self.classifier_.classes)}
        return probabilities[:, [place[str(name)] for name in self.classes_.tolist()]]

    def _loaded(self, run: Run) -> Classifier:
        """The classifier of a run, in memory, so that the folder may be removed."""
        model = self.backbone if isinstance(self.backbone, nn.Module) else getattr(self.backbone, "model", None)
        return load(run, model, find_machine(self.device, "fp32"))

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.input_tags.two_d_array = False  # one row of numbers per sample is not an image
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags


def _rows(images: Any) -> Any:
    """One image per row, as scikit-learn counts: an array (3, H, W) holds three grey images."""
    grey = getattr(images, "ndim", 0) == 3 and images.shape[-1] not in CHANNELS
    rows = list(images) if grey else as_several(images)
    if folder := next((row for row in rows if isinstance(row, (str, Path)) and Path(row).is_dir()), None):
        raise UsageError(
            f"a row is one image, but {folder} is a folder; give its files, such as "
            f'sorted(pathlib.Path("{folder}").rglob("*.jpg")), or read it with frostline.fit'
        )
    return rows


def _as_names(labels: np.ndarray) -> np.ndarray:
    """Labels of any type as class names; numbers stay numbers, so that 10 comes after 9."""
    if labels.dtype.kind in "iu":
        return labels
    return np.array([str(label) for label in labels.tolist()])
