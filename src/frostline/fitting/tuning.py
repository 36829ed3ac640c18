"""A phase that trains: with its own settings or the best of several; then kept, or undone completely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from frostline import terminal
from frostline.data.grouping import membership
from frostline.fitting.attempt import Attempt, Incumbent, Inputs, attempt, half_time, judged, learnt
from frostline.fitting.decisions import Decision, decision, nothing_to_prove
from frostline.fitting.job import Job
from frostline.fitting.progress import Progress
from frostline.fitting.recording import decided, record, write_history
from frostline.network.part import Part, weights_of
from frostline.plan import BatchNorm, Phase
from frostline.training.race import Heat, candidates, has_batchnorm

WORTH_A_RACE = 100  # steps of a phase: fewer cannot tell settings apart, and the gentlest are safe
RACE_EPOCHS = 4
RACE_STEPS = 240  # per candidate: phases of up to twice that train in full, longer ones on a part of the images
DEEPER = 0.5  # times the learning rate that won in a phase further up


def tune(job: Job, progress: Progress, phase: Phase, inputs: Inputs) -> Progress:
    """The progress after the phase's epochs, or fewer if it stops early; a phase that does not pay off is undone."""
    before = Incumbent(weights_of(inputs.upper), *judged(job, phase, inputs))
    entry = {"epoch": 0, "valid_loss": before.monitored, "deciding_loss": before.loss}
    progress = record(job, progress, phase, entry, job.objective.task.measure(before.outputs), 0.0)
    attempts, heats = _attempts(job, progress, phase, inputs, before)
    best = _best(attempts)
    progress = best.progress
    write_history(job, progress)  # another attempt may have written last
    made = decision(
        job.objective,
        before.outputs,
        best.outputs,
        number=len(progress.phases) + 1,
        phase=best.phase,
        won=best.loss < before.loss,
        tried=heats,
        group=membership(inputs.valid.images.names, progress.images.groups),
    )
    inputs.upper.load_state_dict(best.weights if made.kept else before.weights)
    ended = _ended(job, best, made) if phase.race else ""
    optimizer = best.optimizer if made.kept else progress.optimizer
    progress = replace(decided(progress, made, best.epoch), ended=ended, optimizer=optimizer)
    if ended and len(progress.phases) + 1 < len(job.plan):
        terminal.say(f"  trying no deeper phase: {ended}")
    return progress


def _best(attempts: Sequence[Attempt]) -> Attempt:
    """The attempt with the lowest loss among those that trained to the end; the last, gentlest one of equals."""
    return min((each for each in reversed(attempts) if not each.left), key=lambda each: each.loss)


def _ended(job: Job, best: Attempt, made: Decision) -> str:
    """Why no deeper phase is worth a try after this one; "" if one may be."""
    if not made.kept:
        return f"{best.phase.frostline} did not improve the network"
    at_the_end = best.epochs[-1].train_accuracy
    if learnt(job, at_the_end, best.outputs):
        return (
            f"its last epoch got {100 * at_the_end:.1f} % of the training images right, which leaves nothing to learn"
        )
    return ""


def _attempts(
    job: Job, progress: Progress, phase: Phase, inputs: Inputs, before: Incumbent
) -> tuple[list[Attempt], list[Heat]]:
    """The attempts: with the phase's own settings, or all that it leaves open; for a long phase the winners on a part.

    And the results of all settings, those on a part included: the validation images have seen them all.
    """
    if not phase.race:
        usual: BatchNorm = "updated" if job.backbone.weights == "none" else "frozen"
        return _race(job, progress, [replace(phase, batchnorm=phase.batchnorm or usual)], inputs, before), []
    heats: list[Heat] = []
    entrants = _entrants(job, progress, phase, inputs)
    if len(entrants) > 1 and _steps(phase, len(inputs.train.images)) > 2 * RACE_STEPS:
        few = torch.randperm(len(inputs.train.images), generator=torch.Generator().manual_seed(job.options.seed))
        images = few[: RACE_STEPS * phase.batch_size // RACE_EPOCHS].sort().values.numpy()
        part = replace(inputs, train=inputs.train.some(images))
        terminal.say(f"  on {len(images)} of {len(inputs.train.images)} images:")
        on_part = _race(job, progress, [replace(each, epochs=RACE_EPOCHS) for each in entrants], part, before)
        heats, won = [each.heat for each in on_part], _best(on_part).phase
        entrants = [replace(phase, lr=won.lr, batchnorm=won.batchnorm)]
    attempts = _race(job, progress, entrants, inputs, before)
    return attempts, [*heats, *(each.heat for each in attempts)]


def _race(job: Job, progress: Progress, entrants: Sequence[Phase], inputs: Inputs, before: Incumbent) -> list[Attempt]:
    """Train each entrant; one that is behind the best so far at half time stops.

    No other entrant follows one that leaves too few mistakes to tell settings apart.
    """
    attempts: list[Attempt] = []
    for entrant in entrants:
        best = _best(attempts) if attempts else None
        if best is not None and nothing_to_prove(job.objective, best.outputs):
            terminal.say("  trying no other setting: too few validation images are wrong to tell settings apart")
            break
        at_half = math.inf
        if best is not None and math.isfinite(best.loss):
            at_half = best.epochs[: half_time(entrant)][-1].deciding_loss
        attempts.append(attempt(job, progress, entrant, inputs, before, at_half))
    return attempts


def _entrants(job: Job, progress: Progress, phase: Phase, inputs: Inputs) -> list[Phase]:
    """The phase with all settings worth a try; if a phase further up was kept, with the settings that won there."""
    if won := _won_before(job, progress, phase):
        return [replace(phase, lr=phase.lr or DEEPER * won[0], batchnorm=phase.batchnorm or won[1])]
    entrants = entrants_of(job, phase, inputs.upper, len(inputs.train.images))
    if phase.lr is None and len(entrants) == 1:
        terminal.say(f"  fewer than {WORTH_A_RACE} steps cannot tell two learning rates apart: using the lower one")
    return entrants


def entrants_of(job: Job, phase: Phase, upper: Part, images: int) -> list[Phase]:
    """The settings to try in a phase on so many images, if no phase further up has chosen them."""
    entrants = candidates(phase, has_batchnorm=has_batchnorm(upper), pretrained=job.backbone.weights != "none")
    return entrants if _steps(phase, images) >= WORTH_A_RACE else entrants[-1:]


def _steps(phase: Phase, images: int) -> int:
    return phase.epochs * -(-images // phase.batch_size)


def _won_before(job: Job, progress: Progress, phase: Phase) -> tuple[float, BatchNorm] | None:
    """The learning rate and BatchNorm mode that won a race further up, with the same optimizer."""
    raced = [each for each in progress.decisions if each["kept"] and each["tried"]]
    if not raced or job.plan[raced[-1]["phase"] - 1].optimizer != phase.optimizer:
        return None
    return raced[-1]["lr"], raced[-1]["batchnorm"]
