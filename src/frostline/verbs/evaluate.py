"""The accuracy of a classifier, with intervals."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frostline import terminal
from frostline.checks import suspects
from frostline.checks.copies import versions_of_known
from frostline.checks.findings import Checks, Finding, ordered
from frostline.checks.look import look
from frostline.checks.samples import samples_of
from frostline.classifier.artifact import load
from frostline.classifier.classifier import Classifier
from frostline.classifier.reference import Reference, latest, noting, of_length_one, reference_of
from frostline.data import Data, Images, read_for_evaluation
from frostline.data.grouping import groups_of, membership
from frostline.data.readers.columns import Wanted
from frostline.data.readers.manifest import AS_IT_IS
from frostline.data.targets import targets_of
from frostline.data.unreadable import refuse_too_many
from frostline.data.views import PLAIN
from frostline.errors import DataError, UsageError
from frostline.machine import find_machine
from frostline.runs.run import Run, load_run, trained_groups, trained_on
from frostline.tasks import Outputs, Task, join, task_of
from frostline.tasks.clustered import accuracy_for, difference_of, mean_apart


def evaluate(
    run: str | Path | Run,
    data: Data,
    *,
    split: str = "",
    group: str | None = None,
    wanted: Wanted = AS_IT_IS,
    device: str = "auto",
    download: bool = False,
    model: torch.nn.Module | None = None,
) -> dict[str, Any]:
    """Measure a run's classifier on labelled images, matched to its classes by name.

    run: the folder of a `fit`, or its `Run`. data: everything that `fit` takes.
    split: "train", "valid", "test" or "all"; by default all of a plain folder, else the test split, else validation.
    wanted: the columns of a manifest, if they have unusual names (data/readers/columns.py).
    group: as in `fit`, which images belong together; the intervals are then for new groups.
    model: the network (with any head) for a run of your own `nn.Module`.

    Returns accuracy (0 … 1), loss (nats), n, interval, per_class as `evaluate --json` prints them; `trained_on`, the
    number of images that the run was trained on, byte for byte or saved again (a run with one class per image knows the
    look of up to 5,000 training images); `without_leaks`, accuracy, n and interval of the other images, if there are
    any leaks; and `checks`, the number of findings of each kind about the images (checks/findings.py).
    Raises DataError for classes that the run does not know or too many unreadable images.

    >>> evaluate("runs/pets", "more_photos/")["interval"]  # doctest: +SKIP
    [0.9002, 0.9733]
    """
    return _result(_measured(run, data, split, group, wanted, device, model, download=download))


def evaluate_paired(
    first: str | Path | Run,
    second: str | Path | Run,
    data: Data,
    *,
    split: str = "",
    group: str | None = None,
    wanted: Wanted = AS_IT_IS,
    device: str = "auto",
    download: bool = False,
    models: tuple[torch.nn.Module | None, torch.nn.Module | None] = (None, None),
) -> dict[str, Any]:
    """Measure two runs on the same images, and the difference between them, image by image.

    Hard images are mostly hard for both runs, so the difference is far more precise than either accuracy.
    data, split, group, wanted, device, models: as in `evaluate`. A split that has to be drawn is the first run's.

    Returns `runs`, the result of `evaluate` for each; `paired`, over the `n` images that both could read: the
    `difference` in accuracy (first minus second), its 95 % interval `low`, `high` and `p_value` (tasks/paired.py:
    McNemar's exact test for images that are right or wrong), the number of images that only one run gets right
    (`only_first`, `only_second`; None for shares of pixels), and `loss_difference`, of the log-loss, with
    `loss_interval`; `per_class`, for one label per image, the same per class that has images.
    Raises UsageError for runs with different tasks or classes; else as `evaluate` does.

    >>> evaluate_paired("runs/small", "runs/large", "photos/")["paired"]["p_value"]  # doctest: +SKIP
    0.0313
    """
    one = _measured(first, data, split, group, wanted, device, models[0], download=download)
    other = _measured(second, data, split, group, wanted, device, models[1], download=download, seed=one.seed)
    same = one.task is other.task and set(one.classifier.classes) == set(other.classifier.classes)
    if not same:
        raise UsageError(
            f"{one.run.path} has the classes {', '.join(one.classifier.classes[:5])}, and {other.run.path} "
            f"{', '.join(other.classifier.classes[:5])}; give two runs with the same classes"
        )
    return {"runs": [_result(one), _result(other)], **_paired(one, other)}


@dataclass(frozen=True, eq=False)
class _Measured:
    """A classifier's outputs for the images that it could read.

    trained: by number of each image that the run was trained on, how that is known.
    groups: the group of each image, by its name, if images belong together.
    places: their numbers among all images of the data. seed: the seed of a split that had to be drawn.
    """

    run: Run
    classifier: Classifier
    images: Images
    outputs: Outputs
    trained: dict[int, str]
    places: np.ndarray
    groups: Mapping[str, str]
    unreadable: list[tuple[str, str]]
    split: str
    seed: int

    @property
    def task(self) -> Task:
        return task_of(self.classifier.task)


def _measured(
    run: str | Path | Run,
    data: Data,
    split: str,
    group: str | None,
    wanted: Wanted,
    device: str,
    model: torch.nn.Module | None,
    *,
    download: bool,
    seed: int | None = None,
) -> _Measured:
    run = run if isinstance(run, Run) else load_run(run)
    classifier = load(run, model, find_machine(device, "fp32"))
    seed = run.config.get("seed", 0) if seed is None else seed
    images, chosen = read_for_evaluation(
        data, classifier.classes, split, classifier.task, seed=seed, download=download, wanted=wanted
    )
    if not len(images):
        raise DataError(f"{data} holds no images to measure")
    reference = reference_of(run.path)
    outputs, features, failed = _outputs(classifier, images, reference)
    unreadable = [(images.names[i], failed[i]) for i in sorted(failed)]
    refuse_too_many(unreadable, len(images))
    places, images = np.delete(np.arange(len(images)), sorted(failed)), images.without(failed.keys())
    trained = _trained(run, images, features, reference)
    groups = {} if group is None else groups_of(images.names, group, data, wanted)
    return _Measured(run, classifier, images, outputs, trained, places, groups, unreadable, chosen, seed)


def _trained(run: Run, images: Images, features: Tensor, reference: Reference | None) -> dict[int, str]:
    """By number of each image that the run was trained on, how that is known: same bytes, or saved again."""
    same = np.flatnonzero(trained_on(run, images)).tolist()
    found = dict.fromkeys(same, "the run was trained on it")
    if reference is None:
        return found
    again = versions_of_known(images, features, reference.features, reference.glances)
    return {pair.one: f"the run was trained on {reference.names[pair.other]}, {pair.how}" for pair in again} | found


def _result(measured: _Measured) -> dict[str, Any]:
    """The result of `evaluate`."""
    names, groups = measured.images.names, measured.groups
    trained, group = trained_groups(measured.run), membership(names, groups)
    known = np.isin(np.arange(len(names)), list(measured.trained))
    of_trained = np.array([groups.get(name) in trained for name in names], bool)
    seen = known | of_trained
    if of_trained.any():
        terminal.say(
            f"note: {measured.run.path} was trained on images of the same groups as {of_trained.sum()} of these "
            f"{len(known)}; expect lower accuracy on new groups"
        )
    if known.any():
        terminal.say(
            f"note: {measured.run.path} was trained on {known.sum()} of these {len(known)} images; "
            "expect lower accuracy on new images"
        )
    scores = measured.task.scores(measured.outputs).numpy()
    return {
        **measured.task.metrics(measured.outputs, measured.classifier.classes, group),
        "split": measured.split,
        "trained_on": int(known.sum()),
        "checks": _checks(measured).counts,
        **(
            {"without_leaks": accuracy_for(scores[~seen], None if group is None else group[~seen])}
            if seen.any()
            else {}
        ),
        "unreadable": [{"path": name, "error": reason} for name, reason in measured.unreadable],
    }


def _paired(one: _Measured, other: _Measured) -> dict[str, Any]:
    """The differences of two classifiers on the images that both could read."""
    _, first, second = np.intersect1d(one.places, other.places, return_indices=True)
    scores = [m.task.scores(m.outputs).numpy()[rows] for m, rows in ((one, first), (other, second))]
    losses = [m.outputs.losses.double().numpy()[rows] for m, rows in ((one, first), (other, second))]
    apart, group = losses[0] - losses[1], membership([one.images.names[i] for i in first.tolist()], one.groups)
    result: dict[str, Any] = {
        "n": len(first),
        **_difference(scores[0], scores[1], group),
        "loss_difference": float(apart.mean()),
        "loss_interval": mean_apart(apart, group),
    }
    if one.task.name != "classification":
        return {"paired": result}
    of_class = one.outputs.targets.numpy()[first]
    classes = {name: of_class == i for i, name in enumerate(one.classifier.classes)}
    return {
        "paired": result,
        "per_class": {
            name: {
                "n": int(own.sum()),
                **_difference(scores[0][own], scores[1][own], None if group is None else group[own]),
            }
            for name, own in classes.items()
            if own.any()
        },
    }


def _difference(first: np.ndarray, second: np.ndarray, group: np.ndarray | None) -> dict[str, Any]:
    binary = bool(np.isin([*first, *second], (0, 1)).all())
    only = (int((first > second).sum()), int((second > first).sum())) if binary else (None, None)
    return {**asdict(difference_of(first, second, group)), "only_first": only[0], "only_second": only[1]}


def _outputs(
    classifier: Classifier, images: Images, reference: Reference | None
) -> tuple[Outputs, Tensor, dict[int, str]]:
    """A classifier's outputs for the readable images, and by number the reasons why others are unreadable.

    Also their features (n, D) of float16, as in the reference's file; empty without a reference.
    """
    task, targets = task_of(classifier.task), targets_of(images, PLAIN, classifier.preprocessing)
    failed: dict[int, str] = {}
    features: list[Tensor] = []

    def batches() -> Iterator[Outputs]:
        for numbers, logits, reasons in classifier.logits(images, "evaluating"):
            failed.update(reasons)
            if numbers:
                yield task.outputs(logits, targets(torch.tensor(numbers)))
            if numbers and reference:
                features.append(of_length_one(latest(noted, len(numbers))).half())

    with contextlib.ExitStack() as stack:
        noted = stack.enter_context(noting(classifier.model, reference.layer)) if reference else []
        outputs = join(batches())
    return outputs, torch.cat(features) if features else torch.empty(0, 0), failed


def _checks(measured: _Measured) -> Checks:
    """The findings about the measured images; their labels are compared with the classifier's predictions."""
    images, split, classes = measured.images, measured.split, measured.classifier.classes
    samples = samples_of({split: images}, classes)
    found = list(look(samples, [(split, name, reason) for name, reason in measured.unreadable]).findings)
    for number, how in sorted(measured.trained.items()):
        label = samples.labels_at([number])
        found.append(Finding("leak", samples.names([number]), (split,), label, 1.0, how))
    if samples.one_label:
        others = np.delete(np.arange(len(images)), list(measured.trained))
        probabilities = measured.task.probabilities(measured.outputs.logits[torch.from_numpy(others)])
        rest = samples_of({split: images.take(others)}, classes)
        said = suspects.said_of([probabilities.numpy()], np.asarray(rest.images.targets), len(classes))
        found += suspects.findings(rest, said)
    return ordered(len(images) + len(measured.unreadable), found)
