"""One phase of a fit: cut at the frostline, get the activations, solve or train the upper part, keep the best."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from frostline import terminal
from frostline.data.grouping import membership, same_content
from frostline.data.unreadable import named, refuse_lost_classes, refuse_too_many
from frostline.fitting import lines
from frostline.fitting.attempt import Inputs, judge_of, judged
from frostline.fitting.decisions import FEWEST, decision, nothing_to_prove
from frostline.fitting.job import Job
from frostline.fitting.members import solving_members, training_members
from frostline.fitting.progress import (
    Epoch,
    Measured,
    Progress,
    standing,
    undone,
    without,
)
from frostline.fitting.recording import decided, record
from frostline.fitting.saved import checkpoint, forget, write_checked, write_progress
from frostline.fitting.tuning import tune
from frostline.network.fingerprint import unchanged
from frostline.network.part import Part, weights_of
from frostline.plan import Phase
from frostline.runs.run import write_split
from frostline.store.activations import Activations
from frostline.tasks import Outputs
from frostline.training.judging import predict_all
from frostline.training.numbers import refuse_outputs
from frostline.training.probe import cross_fitted, has_linear_head, solve_head

HEAD_STEPS = 300  # minimum for a head that cannot be solved


def run_phase(job: Job, progress: Progress, phase: Phase) -> Progress:
    """The progress after one more phase; the network keeps the phase's best weights, maybe its initial ones."""
    if phase.race:
        reason, progress = _nothing_to_prove(job, progress)
        if reason:
            terminal.say(f"trying no deeper phase: {reason}")
            progress = replace(progress, ended=reason)
            write_progress(job, progress)
            return progress
    started, done = time.perf_counter(), len(progress.phases)
    lower, upper = job.network.cut(phase.frostline, phase.freeze)
    with unchanged():  # until the phase trains
        train, progress = open_split(job, progress, lower, "train", done)
        valid, progress = open_split(job, progress, lower, "valid", done)
    if not done:
        write_split(job.run, job.images, progress.images)  # now their digests are known
    write_progress(job, progress)  # where the rows are kept, and which images cannot be read
    inputs = Inputs(upper, train, valid)
    if not done:
        lines.say_copies(progress.images)
    lines.say_phase(job, progress, phase, upper, train)
    solved = None
    if phase.epochs == 0:
        solvable = not job.objective.unsolvable and has_linear_head(job.network)
        with solving_members(job.machine, train, job.said) if solvable else contextlib.nullcontext():
            solved = _solve(job, progress, phase, inputs)
    if solved is None:
        trains = phase if phase.epochs else trained_instead(job, phase, len(train.images))
        with training_members(job.machine, trains, job.said):
            progress = tune(job, progress, trains, inputs)
        last, progress = _after(job, progress, inputs)
    else:
        progress, last = solved
    result = _result(job, phase, progress, inputs, time.perf_counter() - started)
    result["valid"] = job.objective.task.measure(last.outputs)
    progress = replace(progress, phases=(*progress.phases, result), last=last)
    write_checked(checkpoint(job.run, done + 1), upper.state_dict(), {"fit": job.identity})
    write_progress(job, progress)
    forget(job.run, done + 1)
    return progress


def open_split(job: Job, progress: Progress, lower: Part, split: str, number: int) -> tuple[Activations, Progress]:
    """The activations of a split below the frostline of phase `number`, and the progress without unreadable images.

    Raises DataError if too many images cannot be read.
    """
    opened = job.placement.activations(number, lower, progress.images.splits[split], split)
    failed = tuple((split, name, reason) for name, reason in opened.unreadable)
    progress = without(progress, failed)
    if failed:
        all_failed = [(name, reason) for _, name, reason in progress.unreadable]
        total = sum(len(part) for part in job.images.distinct.values())
        refuse_too_many(all_failed, total, skip=job.options.skip_unreadable)
        refuse_lost_classes(job.images.train, progress.images.train, job.images.classes)
        terminal.say(f"skipped {len(failed)} unreadable in {split}: {named(opened.unreadable)}")
    return opened, progress


def _solve(job: Job, progress: Progress, phase: Phase, inputs: Inputs) -> tuple[Progress, Measured] | None:
    """The progress with the head solved, if the solved head is better; None if it cannot be solved."""
    objective, upper = job.objective, inputs.upper
    if objective.unsolvable:
        terminal.say(f"training the head: no closed-form solution for {objective.unsolvable}")
        return None
    started = time.perf_counter()
    before, monitored_before, loss_before = judged(job, phase, inputs)
    state = weights_of(upper)
    group = membership(inputs.train.images.names, progress.images.groups)
    group = same_content(inputs.train.images) if group is None else group
    if not solve_head(job.network, upper, inputs.train, job.options.seed, objective.class_weights, group):
        terminal.say(f"training {phase.frostline}: more than one linear layer has no closed-form solution")
        return None
    if job.images.validation == "crossed":
        after = _crossed(job, inputs.train)
        monitored = float(objective.monitor(after.logits.to(objective.device), after.targets.to(objective.device)))
        judge = judge_of(job, phase)
        loss = judge(after) if judge else monitored
    else:
        after, monitored, loss = judged(job, phase, inputs)
    names = (inputs.train if job.images.validation == "crossed" else inputs.valid).images.names
    refuse_outputs(after, names, "the solved head", monitored, loss)  # never undone without a word
    kept = loss <= (loss_before if progress.phases else math.inf)
    outputs = after if kept else before
    if not kept:
        upper.load_state_dict(state)
        monitored, loss = monitored_before, loss_before
    entry, seconds = {"epoch": 0, "valid_loss": monitored, "deciding_loss": loss}, time.perf_counter() - started
    progress = record(job, progress, phase, entry, objective.task.measure(outputs), seconds)
    number = len(progress.phases) + 1
    group = membership(inputs.valid.images.names, progress.images.groups)
    made = decision(objective, before, after, number=number, phase=phase, won=kept, group=group)
    return decided(progress, made), Measured(inputs.valid, outputs)


def _crossed(job: Job, train: Activations) -> Outputs:
    """The outputs for the plain training images, each fold predicted by a head that was solved on the others."""
    objective = job.objective
    group = same_content(train.images)
    logits = cross_fitted(train, len(job.images.classes), job.options.seed, objective.class_weights, group)
    return objective.task.outputs(logits, train.targets(torch.arange(len(train.images)) * train.views))


def _after(job: Job, progress: Progress, inputs: Inputs) -> tuple[Measured, Progress]:
    """What the network makes of the validation images after a phase; where that was undone, what it made before it.

    Another frostline rounds differently, and nothing is to look changed where nothing was.
    """
    if len(progress.phases) in undone(progress):
        return measured(job, progress)
    return Measured(inputs.valid, predict_all(inputs.upper, inputs.valid, job.objective.task)[0]), progress


def trained_instead(job: Job, phase: Phase, images: int) -> Phase:
    """A phase that trains a head that cannot be solved: enough steps for few images, enough epochs for many."""
    common = job.options.of_phases
    phase = replace(phase, **{name: value for name, value in common.items() if name not in ("epochs", "views")})
    steps = -(-images // phase.batch_size)
    epochs = common.get("epochs", max(20, -(-HEAD_STEPS // steps)))
    return replace(phase, epochs=epochs, lr=phase.lr or 10 * phase.learning_rate, patience=max(20, phase.patience))


def measured(job: Job, progress: Progress) -> tuple[Measured, Progress]:
    """The network's outputs for the validation images, at the frostline of the last phase that was kept.

    They are measured again after a restart.
    """
    if progress.last is not None:
        return progress.last, progress
    number = standing(progress)
    phase = job.plan[number]
    lower, upper = job.network.cut(phase.frostline, phase.freeze)
    valid, progress = open_split(job, progress, lower, "valid", number)
    if job.images.validation == "crossed":
        train, progress = open_split(job, progress, lower, "train", number)
        return Measured(valid, _crossed(job, train)), progress
    outputs, _ = predict_all(upper, valid, job.objective.task)
    return Measured(valid, outputs), progress


def _nothing_to_prove(job: Job, progress: Progress) -> tuple[str, Progress]:
    """Why no phase could prove an improvement; "" if one could."""
    if not progress.images.held_out:
        return "no held-out images could prove an improvement", progress
    last, progress = measured(job, progress)
    outputs = last.outputs
    if len(outputs) < FEWEST:
        return f"{len(outputs)} validation images cannot prove an improvement; at least {FEWEST} can", progress
    if nothing_to_prove(job.objective, outputs):
        wrong = round(float((1 - job.objective.task.scores(outputs)).sum()))
        few = f"{wrong} of {len(outputs)} validation images are wrong, too few to tell an improvement from chance"
        return few, progress
    return "", progress


def _kept_epoch(phase: Phase, epochs: Sequence[Epoch]) -> int:
    """The epoch whose weights are kept: the last one for a phase with `race`, else the best."""
    best = epochs[-1] if phase.race else min(epochs, key=lambda epoch: epoch["deciding_loss"])
    number: int = best["epoch"]
    return number


def _result(job: Job, phase: Phase, progress: Progress, inputs: Inputs, seconds: float) -> dict[str, Any]:
    """The entry of a phase in metrics.json, without its measurements."""
    done, placement = len(progress.phases), job.placement
    filled = (inputs.train.filled, inputs.valid.filled)
    common_pass = 0.0 if done else placement.seconds
    together = sum(placement.together[split][done] for split in ("train", "valid"))
    computed = together + sum(each.computed for each in filled)
    epochs = [epoch for epoch in progress.epochs if epoch["phase"] == done + 1]
    return {
        "frostline": phase.frostline,
        "epochs": epochs[-1]["epoch"],
        "kept_epoch": None if done in undone(progress) else _kept_epoch(phase, epochs),
        "seconds": seconds + common_pass,
        "fill_seconds": sum(each.seconds for each in filled) + common_pass,
        "cached_bytes": sum(each.bytes for each in filled),
        "computed": computed,
        "reused": max(0, len(inputs.train) + len(inputs.valid) - computed),
    }
