"""From options to a job: reads, loads, checks and decides everything before training."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from frostline import terminal
from frostline.backbones import Backbone, load_backbone, shrunk
from frostline.cluster import LOCAL, cluster_of
from frostline.data.augment import NONE
from frostline.data.images import ImageSet, join
from frostline.data.unreadable import empty_files, refuse_too_many
from frostline.data.views import Views, suited, tiny
from frostline.errors import UsageError
from frostline.fitting import lines
from frostline.fitting.disk import refuse_full_disk
from frostline.fitting.job import Job, Objective
from frostline.fitting.options import Options
from frostline.fitting.resuming import objects_of, saved_job, trained_phases, with_saved
from frostline.machine import Machine, find_machine, to_device
from frostline.network.network import Network
from frostline.plan import PRESETS, Phase, Plan, check_plan, may_end_with_head, resolve_plan
from frostline.runs.config import resolved
from frostline.runs.run import Run, create_run, write_start
from frostline.store.placement import Placement
from frostline.store.shards import Cache, cache_at, stored_bytes
from frostline.tasks import Outputs, Task, loss_of, task_of
from frostline.tasks.summary import IMBALANCED, SHOWN
from frostline.tasks.weights import class_weights, imbalance
from frostline.training.probe import CROSS_FOLDS, has_linear_head
from frostline.values import parse_bytes

FEW = 200  # images: with fewer, none are held out if only a head is solved
FOR_TINY = 128  # pixels: 224 show no more of a tiny image, at three times the work
SMOOTHING = 0.1  # default label smoothing of phases with `race`: see docs/recipe.md


def prepare(options: Options, run: Run | None = None, *, stop_here: bool = False) -> Job:
    """Read the images, load the backbone, resolve the plan, check that all of it fits together, and create the run.

    run: of an interrupted fit to go on with, whose options these are. stop_here: train no further.

    Raises FrostlineError in one of its kinds, before a run is created.
    """
    with terminal.recorded() as first_lines:
        job = _prepared(options, run, stop_here)
    return replace(job, first_lines=tuple(first_lines))


def _prepared(options: Options, run: Run | None, stop_here: bool) -> Job:
    started, given = time.perf_counter(), objects_of(options)
    check_plan(options.plan)  # before hours of reading images
    machine = machine_of(options)
    cache = store_of(options)
    images = options.read()
    empty = [each for part in images.distinct.values() for each in empty_files(part)]
    refuse_too_many(empty, sum(map(len, images.distinct.values())), skip=options.skip_unreadable)
    lines.say_data(images)
    options, backbone = loaded(options, images)
    views = augmentation(options, images)
    network = backbone.network(len(images.classes), options.seed, images.task)
    objective = _objective(options, images, machine)
    whole = _whole(options, images, network, objective)
    if whole is not images:
        images, objective = whole, _objective(options, whole, machine)
    saved = saved_job(run, options, images, backbone) if run else None
    if saved and saved.stop_here:
        terminal.say("the fit was told to stop here: it trains no further")
        stop_here = True
    if run and isinstance(options.plan, list):
        plan = trained_phases(run, saved, options.plan) if stop_here else tuple(options.plan)
    else:
        plan = planned(options, network, len(images.train), views, objective.unsolvable)
        plan = plan[:1] if images.validation == "crossed" else plan
    frozen = plan[-1].frostline != network.stage_names()[0]  # to the end
    if str(options.weights) == "none" and isinstance(options.backbone, str) and frozen and run is None:
        terminal.say(
            "warning: without pretrained weights the frozen layers are random; use --plan full to train the whole "
            "network"
        )
    to_device(network.model, machine.device)
    kept_at = saved.kept_at if saved else ()
    placement = Placement(
        network, plan, images, views, machine=machine, cache=cache, keep=options.cache, kept_at=kept_at
    )
    again = run is not None
    if run is None:
        refuse_full_disk(Path(options.out or "runs"), network, plan)
        run = create_run(options.out, f"{images.name}-{backbone.name.rpartition(':')[2]}")
        write_start(run, resolved(options, images, backbone, plan), images)
    job = Job(options, images, backbone, network, plan, objective, views, machine, placement, run, started)
    job = replace(job, objects=given)
    return with_saved(job, saved, stop_here=stop_here) if again else job


def machine_of(options: Options) -> Machine:
    """The machine, and the cluster that computes its passes over images, connected."""
    machine = find_machine(options.device, options.precision, options.workers)
    if options.on == LOCAL:
        return machine
    if str(options.store).startswith("memory://"):
        raise UsageError(f"{options.store} is in the memory of this process, where no node sees it; give another store")
    return replace(machine, cluster=cluster_of(options.on, options.device))


def store_of(options: Options) -> Cache | None:
    """The store of activations with its limits; None without a cache. Raises MachineError if its URL cannot be read."""
    if not options.cache:
        return None
    cache = cache_at(options.store, parse_bytes(options.cache_budget))
    return replace(cache, most=stored_bytes(cache.folder) + parse_bytes(options.disk)) if options.disk else cache


def loaded(options: Options, images: ImageSet) -> tuple[Options, Backbone]:
    """The options with the defaults that plan auto chooses, and the backbone to use."""
    backbone = load_backbone(options.backbone, options.weights, image_size=options.image_size, seed=options.seed)
    return _decided(options, images, backbone) if str(options.plan) == "auto" else (options, backbone)


def loaded_network(options: Options, images: ImageSet, machine: Machine) -> tuple[Options, Backbone, Network]:
    """The same, and the network with its head on the machine's device, for verbs that train nothing."""
    options, backbone = loaded(options, images)
    network = backbone.network(len(images.classes), options.seed, images.task)
    to_device(network.model, machine.device)
    return options, backbone, network


def _decided(options: Options, images: ImageSet, backbone: Backbone) -> tuple[Options, Backbone]:
    """The options with the defaults of plan auto, so that config.yaml records them; and the backbone for them.

    Tiny images get a smaller input: a head alone does a little worse at 128 pixels, deeper training does not. Your own
    module keeps its input size. Very unequal classes get equal weight.
    """
    one_label = images.task == "classification"
    if one_label and options.image_size is None and isinstance(options.backbone, str) and tiny(images.train.pictures):
        smaller, full = shrunk(backbone, FOR_TINY), backbone.preprocessing.size
        if smaller is not backbone:
            options, backbone = replace(options, image_size=FOR_TINY), smaller
            terminal.say(
                f"tiny images: using {FOR_TINY} pixels, not {full}, which is faster (--image-size {full} to change)"
            )
    times = imbalance(images.train.targets)
    weighs = options.class_weights is None and not options.balanced and not callable(options.loss)
    if weighs and times > IMBALANCED:
        options = replace(options, class_weights="balanced")
        terminal.say(
            f"one class has {times:.0f} times the images of another: each class gets equal weight in training "
            "(--class-weights none: equal weight for each image)"
        )
    return options, backbone


def few(images: ImageSet) -> bool:
    """Whether the images are so few that a solved head is better measured in folds than on a validation split."""
    may_cross = images.may_cross and not images.groups  # a head's folds know no groups
    return images.validation == "split" and may_cross and len(images.train) + len(images.valid) < FEW


def _whole(options: Options, images: ImageSet, network: Network, objective: Objective) -> ImageSet:
    """The images; with few images and only a head to solve, none are held out.

    A fifth of fewer than 200 images measures little, and the head would miss them. So all are for training, and each
    image is predicted by a head that was solved without it.
    """
    solvable = may_end_with_head(options.plan) and not objective.unsolvable
    if not few(images) or not solvable or not has_linear_head(network):
        return images
    together = join([images.train, images.valid])
    terminal.say(
        f"only {len(together)} images: the {len(images.valid)} validation images join the training images, and "
        f"{CROSS_FOLDS}-fold cross-validation measures the head"
    )
    return replace(images, train=together, valid=together, validation="crossed")


def augmentation(options: Options, images: ImageSet) -> Views:
    """The augmentation of the training views; by default one that suits the images."""
    auto = isinstance(options.augment, str) and options.augment == "auto"
    recipe = (images.augment or suited(images.train.pictures)) if auto else options.augment
    views = Views(seed=options.seed, augment=recipe)
    if images.task == "segmentation" and callable(views.recipe):
        raise UsageError("a function would augment images but not their masks; give augment= the name of a preset")
    return views


def _objective(options: Options, images: ImageSet, machine: Machine) -> Objective:
    task, loss, given = task_of(images.task), options.loss, options.class_weights
    if options.balanced and images.task == "segmentation":
        raise UsageError("balanced samples images and cannot sample pixels of masks; use class_weights='balanced'")
    weights = None if given in (None, "none") else class_weights(given, images.train.targets, images.classes)
    placed = weights.to(machine.device) if weights is not None else None
    if isinstance(loss, nn.Module):  # its tensors must be on the device of the logits
        loss = copy.deepcopy(loss).to(machine.device)
    reasons = {
        "segmentation": images.task == "segmentation",
        f"loss {getattr(loss, '__name__', loss)}": loss not in (None, next(iter(task.losses))),
        "label smoothing": options.label_smoothing,
        "balanced": options.balanced,
        "mixup": options.mixup,
    }
    smoothing = options.label_smoothing or 0.0
    smooths = images.task == "classification" and loss in (None, "cross-entropy") and options.label_smoothing is None
    trained = loss_of(task, loss, weight=placed, smoothing=smoothing)
    return Objective(
        task,
        trained,
        loss_of(task, loss, weight=placed),
        loss_of(task, loss, weight=placed, smoothing=SMOOTHING) if smooths else trained,
        callable(loss),
        machine.device,
        weights,
        ", ".join(reason for reason, holds in reasons.items() if holds),
        _score(options, task),
    )


def _score(options: Options, task: Task) -> tuple[str, Callable[[Outputs], float]] | None:
    """The metric that decides instead of the loss, if the options name one; UsageError if the task does not have it."""
    if options.metric == "loss":
        return None
    if options.metric not in task.scored_by:
        raise UsageError(f"metric {options.metric} does not fit these labels; use loss, {', '.join(task.scored_by)}")
    return SHOWN.get(options.metric, options.metric.replace("_", " ")), task.scored_by[options.metric]


def planned(
    options: Options, network: Network, images: int | None, views: Views, unsolvable: str = ""
) -> tuple[Phase, ...]:
    """The phases that a fit runs: the plan with the options applied, frostlines resolved and views chosen.

    images: number of training images, None if unknown. unsolvable: why the head cannot be solved.

    Raises UsageError for an unknown or rising frostline, and for a phase that would solve more than a head.
    """
    common = options.of_phases
    if views.recipe == NONE:
        common["views"] = 1
    least = 1 if options.augment == "auto" else 2  # an augmentation that the options name needs at least two views
    phases = resolve_plan(options.plan, network, images, least_views=least, **common)
    without_effect = [name for name in common if name != "views"]
    if without_effect and not unsolvable and not any(phase.epochs for phase in phases):
        terminal.say(f"note: this plan trains nothing, so these have no effect: {', '.join(without_effect)}")
    above = math.inf
    for number, phase in enumerate(phases):
        with _where(options.plan, number, phases):
            phases[number] = replace(phase, frostline=network.resolve(phase.frostline))
            depth = network.depth(phases[number].frostline)
            _refuse_rising(phases[number], depth, above)
            _refuse_unsolvable(network, phases[number])
            if phase.race and number == 0:
                raise UsageError(
                    "race is true in the first phase, which has no earlier network to compare with; begin the plan "
                    "with frostline: head, epochs: 0, or leave out race"
                )
            above = depth
    return tuple(phases)


@contextlib.contextmanager
def _where(plan: Plan, number: int, phases: Sequence[Phase]) -> Iterator[None]:
    """Adds the phase, and the plan's file, to an error."""
    try:
        yield
    except UsageError as error:
        if len(phases) == 1 and not isinstance(plan, Path):
            raise
        file = f"{plan}, " if isinstance(plan, (str, Path)) and str(plan) not in PRESETS else ""
        raise UsageError(f"{file}phase {number + 1}: {error}") from error


def _refuse_rising(phase: Phase, depth: int, above: float) -> None:
    """Layers that have trained must not be cached as if they were the pretrained ones."""
    if depth > above:
        raise UsageError(f"the frostline rises to {phase.frostline!r} in the plan; order the phases from the head down")


def _refuse_unsolvable(network: Network, phase: Phase) -> None:
    """A phase with 0 epochs solves the head only, so only the head may lie above its frostline."""
    _, upper = network.cut(phase.frostline, phase.freeze)  # raises where `freeze` matches nothing
    head = {id(p) for path in network.heads for p in network.model.get_submodule(path).parameters()}
    if phase.epochs == 0 and any(p.requires_grad and id(p) not in head for p in upper.parameters()):
        raise UsageError(
            f"epochs is 0 at {phase.frostline!r}, but more than the head lies above, and only the head can be solved; "
            f"give epochs of at least 1, or the frostline {network.stage_names()[-1]!r}"
        )
