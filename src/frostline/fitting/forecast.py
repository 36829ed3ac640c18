"""The cost of a fit, printed before it starts: seconds, bytes in the store, memory; and a plan within the limits.

Decoding and the frozen layers are timed on a few images, and some steps of each phase that trains on a copy of the
network. The rest is counting: views to compute, steps, settings that race.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from frostline import terminal
from frostline.data.images import spread
from frostline.data.targets import targets_of
from frostline.data.views import PLAIN
from frostline.engines.choice import expected_speedup
from frostline.errors import UsageError, reason
from frostline.fitting.job import Job
from frostline.fitting.phase import trained_instead
from frostline.fitting.progress import Progress
from frostline.fitting.tuning import RACE_EPOCHS, RACE_STEPS, entrants_of
from frostline.machine import to_device
from frostline.network.tracing import Cut
from frostline.plan import Phase
from frostline.process import memory_now, used_memory
from frostline.runs.config import resolved
from frostline.runs.run import write_config
from frostline.settings import parse_seconds
from frostline.store.activations import Activations, Filled
from frostline.store.costs import Costs, measured
from frostline.store.placement import Placement
from frostline.store.reading import TENSOR_BYTES, HeldRows
from frostline.store.rows import row_bytes
from frostline.terminal import human_seconds
from frostline.training.probe import CROSS_FOLDS, has_linear_head
from frostline.training.training import Training
from frostline.values import parse_bytes

WORTHWHILE = 10_000  # images, counted once per view and per epoch: a smaller fit takes some seconds
BATCHES = 2  # timed per phase, after as many for warming up
SOLVING = 2e-8  # seconds per row, feature and class, for all passes that solve a head
FINISHING = 2.0  # seconds for pictures, classifier and tables
EVALUATING = 0.2  # share of evaluating in the seconds of training and evaluating one image
PASSING = 300_000_000  # bytes that a pass holds: another engine, pictures and rows in flight
SECOND = 0.4  # of a training, for the second setting: it may not be tried, stop half-way, or train in full
LARGER = 1.4  # maps further down are larger: steps there take that much longer than the forward pass suggests
SHORTEST = 3  # epochs: a phase with fewer cannot show anything


@dataclass(frozen=True)
class Share:
    """The cost of one phase.

    once: seconds of its pass over the images and of solving its head. training: seconds of its epochs. bytes: of new
    rows. memory: bytes of the process by then.
    """

    once: float
    training: float
    bytes: int
    memory: int


@dataclass(frozen=True)
class Forecast:
    """The cost of a fit: of each phase, and the seconds before and after them."""

    phases: tuple[Share, ...]
    rest: float

    def seconds(self, phases: int) -> float:
        """The seconds of a fit that ends after so many phases."""
        return self.rest + sum(share.once + share.training for share in self.phases[:phases])

    def bytes(self, phases: int) -> int:
        return sum(share.bytes for share in self.phases[:phases])


def announced(job: Job) -> Job:
    """The job with its forecast, which is printed; the plan is cut to the limits `time` and `memory` if these are set.

    The deepest phases gain least for their cost, so they get fewer epochs or are left out. A fit of some seconds is
    neither measured nor forecast. A fit without a forecast, e.g. of a network that cannot be traced, goes on. A fit
    that was interrupted keeps its forecast and its plan.
    """
    if job.saved is not None:
        return replace(job, forecast=_read(job.saved.forecast))
    limited = bool(job.options.time or job.options.memory)
    if not (limited or _is_long(job)):
        return job
    try:
        expected = forecast(job)
    except Exception as error:  # a good fit must not fail because its forecast does
        limits = "; --time and --memory have no effect" if limited else ""
        terminal.say(f"no forecast: {reason(error)}{limits}")
        return job
    plan, expected = _within(job, expected) if limited else (job.plan, expected)
    if plan != job.plan:
        cache, keep = job.placement.cache, job.options.cache
        placement = Placement(job.network, plan, job.images, job.views, machine=job.machine, cache=cache, keep=keep)
        left_out = ", ".join(phase.frostline for phase in job.plan[len(plan) :])
        left_out = f"limits leave out {left_out}" if left_out else ""
        job = replace(job, plan=plan, placement=placement, left_out=left_out)
        # with --config it is this plan again
        options = replace(job.options, time=None, memory=None, epochs=None, views=None)
        write_config(job.run, resolved(options, job.images, job.backbone, plan))
    _say(job, expected)
    return replace(job, forecast=expected)


def _is_long(job: Job) -> bool:
    images, epochs = job.images, sum(phase.epochs for phase in job.plan)
    views = max(phase.views or 1 for phase in job.plan)
    return (views + epochs) * len(images.train) + (1 + epochs) * len(images.valid) > WORTHWHILE


def forecast(job: Job) -> Forecast:
    """The cost of every phase on this machine, measured in some seconds.

    Steps of phases that may never come are timed only if memory is limited, because timing takes as much memory as they
    do.
    """
    if job.network.trace is None:
        raise UsageError(f"the network cannot be traced: {job.network.untraceable}")
    placement, phases = job.placement, _as_they_run(job)
    cuts = [job.network.find(phase.frostline) for phase in phases]
    timed = len(phases) if job.options.memory else placement.sure
    steps = [_per_image(job, phase) for phase in phases[:timed]]  # first: it releases the engine that passes use
    rows = [placement.missing(number) for number in range(len(phases))]
    costs = _costs(job, max(cuts, key=lambda cut: cut.position), max(missing for missing, _ in rows))
    for cut in cuts[timed:]:
        steps.append(_scaled(steps[-1], cuts[len(steps) - 1], cut, costs))
    shares, passed = list[Share](), 0
    for number, (phase, cut, step) in enumerate(zip(phases, cuts, steps, strict=True)):
        missing, size = rows[number]
        # One pass serves all phases that are sure to come.
        new = missing if number >= placement.sure else max(0, missing - passed)
        passed = max(passed, missing)
        once = new * costs.together(costs.decode, costs.forward[cut.position]) + size / costs.write
        once += _solving(job, phase, cut) if phase.epochs == 0 else 0.0
        training, again = _training(job, phase, step.seconds, raced=any(each.race for each in phases[:number]))
        training += again * placement.seconds_per_row(number, costs)
        held = min(TENSOR_BYTES, len(job.images.train) * (phase.views or 1) * row_bytes(cut, job.machine))
        shares.append(Share(once, training, size, step.memory + PASSING + held))
    tests = len(job.images.test) if job.images.test is not None else 0
    each = costs.together(costs.decode, max(costs.forward.values())) + EVALUATING * steps[timed - 1].seconds
    rest = tests * each + _refitting(job, phases[-1], cuts[-1], costs)
    return Forecast(tuple(shares), rest + FINISHING + time.perf_counter() - job.started)


def _as_they_run(job: Job) -> list[Phase]:
    """The phases, with training where the head cannot be solved."""
    solvable = not job.objective.unsolvable and has_linear_head(job.network)
    images = len(job.images.train)
    return [each if each.epochs or solvable else trained_instead(job, each, images) for each in job.plan]


def _refitting(job: Job, last: Phase, cut: Cut, costs: Costs) -> float:
    """Seconds for the further views of the validation images and for solving the final head; 0 without `refit`."""
    if not job.options.refit or job.images.validation != "split" or last.epochs:
        return 0.0
    views = len(job.images.valid) * ((last.views or 1) - 1)
    seconds = views * costs.together(costs.decode, max(costs.forward.values()))
    return seconds + _solving(job, last, cut)


def _costs(job: Job, top: Cut, count: int) -> Costs:
    """The costs of decoding and of every cut, at the speed of the engine that a pass over so many images will use."""
    folder = job.placement.cache.folder if job.placement.cache else None
    costs = measured(job.network, top, job.images.train, job.views, job.machine, folder)
    speedup = expected_speedup(job.network.below(top), job.machine, count, costs.forward[top.position], folder)
    return replace(costs, forward={position: seconds / speedup for position, seconds in costs.forward.items()})


def _scaled(step: _Step, timed: Cut, cut: Cut, costs: Costs) -> _Step:
    """A step above a lower cut, scaled from a timed one by the work above each cut, and a little more."""
    top = max(costs.forward.values())
    above = top - costs.forward[timed.position]
    times = LARGER * (top - costs.forward[cut.position]) / above if above else 0.0
    return replace(step, seconds=step.seconds * times)


@dataclass(frozen=True)
class _Step:
    """Seconds per image to train on it and evaluate it once; memory: bytes of the process after that."""

    seconds: float
    memory: int


def _per_image(job: Job, phase: Phase) -> _Step:
    """Train two epochs of a few batches on a network of its own and random activations; the second is timed."""
    if phase.epochs == 0:
        return _Step(0.0, memory_now())
    images = job.images.train.take(spread(len(job.images.train), BATCHES * phase.batch_size))
    network = job.backbone.network(len(job.images.classes), job.options.seed, job.images.task)
    to_device(network.model, job.machine.device)
    _, upper = network.cut(phase.frostline, phase.freeze)
    shape, chance = network.find(phase.frostline).shape, torch.Generator().manual_seed(0)
    rows = HeldRows(torch.randn(len(images), *shape, generator=chance).abs())  # as after a ReLU
    targets = targets_of(images, PLAIN, network.preprocessing)
    few = Activations(images, 1, rows, targets, Filled(len(images), 0, 0.0, 0, "memory"))
    own = job.objective.own_loss  # it may have state
    first = entrants_of(job, phase, upper, len(job.images.train))[0]
    training = Training(
        network,
        upper,
        few,
        few,
        replace(first, epochs=2, lr=1e-6),
        task=job.objective.task,
        loss=None if own else job.objective.loss,
        monitor=None if own else job.objective.monitor,
        precision=job.machine.training_precision,
    )
    *_, last = training
    return _Step(last.seconds / len(images), memory_now())


def _training(job: Job, phase: Phase, seconds: float, *, raced: bool) -> tuple[float, float]:
    """Seconds of all epochs of a phase, with all settings tried, and the number of rows that they read."""
    images, valid = len(job.images.train), len(job.images.valid)
    if phase.epochs == 0:
        return 0.0, 0.0
    _, upper = job.network.cut(phase.frostline, phase.freeze)
    settings = 1 if raced or not phase.race else len(entrants_of(job, phase, upper, images))
    times = 1 + SECOND * (settings - 1)
    trained, judged = times * phase.epochs * images, times * phase.epochs
    if settings > 1 and phase.epochs * images > 2 * RACE_STEPS * phase.batch_size:  # they race on a part of the images
        trained = times * RACE_STEPS * phase.batch_size + phase.epochs * images
        judged = times * RACE_EPOCHS + phase.epochs
    steps = (1 - EVALUATING) * trained + EVALUATING * judged * valid
    return seconds * steps, trained + judged * valid


def _solving(job: Job, phase: Phase, cut: Cut) -> float:
    folds = 2 * CROSS_FOLDS if job.images.validation == "crossed" else 1
    return folds * SOLVING * len(job.images.train) * (phase.views or 1) * math.prod(cut.shape) * len(job.images.classes)


def _within(job: Job, expected: Forecast) -> tuple[tuple[Phase, ...], Forecast]:
    """The plan and its forecast, cut to the limits from the end."""
    plan, shares = list(job.plan), list(expected.phases)
    memory = parse_bytes(job.options.memory) if job.options.memory else math.inf
    seconds = parse_seconds(job.options.time) if job.options.time else math.inf
    while shares[-1].memory > memory or expected.seconds(len(plan)) > seconds:
        phase, share = plan[-1], shares[-1]
        left = share.training - (expected.seconds(len(plan)) - seconds)
        epochs = int(phase.epochs * left / share.training) if share.training and share.memory <= memory else 0
        if SHORTEST <= epochs < phase.epochs:
            terminal.say(
                f"--time {job.options.time}: training {phase.frostline} for {epochs} epochs, not {phase.epochs}"
            )
            plan[-1] = replace(phase, epochs=epochs, views=phase.views and min(phase.views, epochs))
            shares[-1] = replace(share, training=share.training * epochs / phase.epochs)
        elif len(plan) > 1:
            why = f"memory {job.options.memory}" if share.memory > memory else f"time {job.options.time}"
            terminal.say(f"--{why}: leaving out {phase.frostline}")
            del plan[-1], shares[-1]
        else:
            least, size = human_seconds(expected.seconds(1)), terminal.human_bytes(share.memory)
            terminal.say(f"cannot keep the limits: {phase.frostline} alone takes about {least} and {size} of memory")
            break
        expected = replace(expected, phases=tuple(shares))
    return tuple(plan), expected


def _say(job: Job, expected: Forecast) -> None:
    sure, every = min(job.placement.sure, len(job.plan)), len(job.plan)
    deeper = f", up to {human_seconds(expected.seconds(every))} if deeper phases follow" if sure < every else ""
    size, memory = terminal.human_bytes(expected.bytes(sure)), terminal.human_bytes(expected.phases[sure - 1].memory)
    terminal.say(f"forecast: {human_seconds(expected.seconds(sure))}{deeper} · {size} of cache · {memory} of memory")


def _read(saved: Mapping[str, Any] | None) -> Forecast | None:
    """A forecast from what `dataclasses.asdict` made of it."""
    return Forecast(tuple(Share(**share) for share in saved["phases"]), saved["rest"]) if saved else None


def as_json(job: Job, progress: Progress) -> dict[str, Any] | None:
    """The expected and the actual cost of the phases that ran."""
    expected = job.forecast
    if expected is None:
        return None
    ran = progress.phases
    size = sum(each["cached_bytes"] * each["computed"] / max(1, each["computed"] + each["reused"]) for each in ran)
    return {
        "seconds": {
            "expected": expected.seconds(len(ran)),
            "at_most": expected.seconds(len(expected.phases)),
            "actual": time.perf_counter() - job.started,
        },
        "bytes": {"expected": expected.bytes(len(ran)), "actual": round(size)},
        "memory": {"expected": expected.phases[len(ran) - 1].memory, "actual": used_memory()},
        "phases": [
            {"frostline": each["frostline"], "expected": share.once + share.training, "actual": each["seconds"]}
            for share, each in zip(expected.phases, ran, strict=False)
        ],
    }
