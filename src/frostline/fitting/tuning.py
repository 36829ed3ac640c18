"""A phase that trains: with the settings that it names, or those that do best; kept, or undone as if it never was."""

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

WORTH_A_RACE = 100  # steps of a phase: in fewer there is nothing to choose by, and the gentlest settings are safe
RACE_EPOCHS = 4
RACE_STEPS = 240  # of each candidate: a whole training where the phase is no longer than twice that, else one on a part
DEEPER = 0.5  # times the learning rate that won further up


def tune(job: Job, progress: Progress, phase: Phase, inputs: Inputs) -> Progress:
    """The progress after the phase's epochs, or fewer where it is no use; what does not pay is undone."""
    before = Incumbent(weights_of(inputs.upper), *judged(job, phase, inputs))
    entry = {"epoch": 0, "valid_loss": before.monitored, "deciding_loss": before.loss}
    progress = record(job, progress, phase, entry, job.objective.task.measure(before.outputs), 0.0)
    attempts, heats = _attempts(job, progress, phase, inputs, before)
    best = _best(attempts)
    progress = best.progress
    write_history(job, progress)  # another one may have been the last to write
    made = decision(
        job.objective,
        before.outputs,
        best.outputs,
        number=len(progress.phases) + 1,
        phase=best.phase,
        won=best.loss < before.loss,
        tried=heats,
        epoch=best.epoch,
        group=membership(inputs.valid.images.names, progress.images.groups),
    )
    inputs.upper.load_state_dict(best.weights if made.kept else before.weights)
    ended = _ended(job, best, made) if phase.race else ""
    optimizer = best.optimizer if made.kept else progress.optimizer
    progress = replace(decided(progress, made), ended=ended, optimizer=optimizer)
    if ended and len(progress.phases) + 1 < len(job.plan):
        terminal.say(f"  nothing deeper is tried: {ended}")
    return progress


def _best(attempts: Sequence[Attempt]) -> Attempt:
    """The one of the least loss of those that went to their end; of equal ones the last, which is the gentlest."""
    return min((each for each in reversed(attempts) if not each.left), key=lambda each: each.loss)


def _ended(job: Job, best: Attempt, made: Decision) -> str:
    """Why nothing deeper is worth a try after this phase; "" where something may be."""
    if not made.kept:
        return f"{best.phase.frostline} did not pay"
    at_the_end = best.epochs[-1].train_accuracy
    if learnt(job, at_the_end, best.outputs):
        return f"in its last epoch {100 * at_the_end:.1f} % of the training images were right: deeper can learn no more"
    return ""


def _attempts(
    job: Job, progress: Progress, phase: Phase, inputs: Inputs, before: Incumbent
) -> tuple[list[Attempt], list[Heat]]:
    """The phase as it is, or with all settings that it leaves open; of a long one those that win on a part of it.

    And what came of all of them, on a part as well: the validation images have seen them all.
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
    """Each of the entrants trained; who is behind the best one so far at half time leaves.

    None follows one that leaves too few mistakes to tell another one from it.
    """
    attempts: list[Attempt] = []
    for entrant in entrants:
        best = _best(attempts) if attempts else None
        if best is not None and nothing_to_prove(job.objective, best.outputs):
            terminal.say("  no other setting is tried: too few validation images are wrong to tell one from this")
            break
        at_half = math.inf
        if best is not None and math.isfinite(best.loss):
            at_half = best.epochs[: half_time(entrant)][-1].deciding_loss
        attempts.append(attempt(job, progress, entrant, inputs, before, at_half))
    return attempts


def _entrants(job: Job, progress: Progress, phase: Phase, inputs: Inputs) -> list[Phase]:
    """The phase with all settings worth a try; where one further up was kept, with what won there."""
    if won := _won_before(job, progress, phase):
        return [replace(phase, lr=phase.lr or DEEPER * won[0], batchnorm=phase.batchnorm or won[1])]
    entrants = entrants_of(job, phase, inputs.upper, len(inputs.train.images))
    if phase.lr is None and len(entrants) == 1:
        terminal.say(
            f"  fewer than {WORTH_A_RACE} steps, too few to compare two learning rates: the lower one is taken"
        )
    return entrants


def entrants_of(job: Job, phase: Phase, upper: Part, images: int) -> list[Phase]:
    """The settings that a phase is tried with on so many images, where none further up tell which."""
    entrants = candidates(phase, has_batchnorm=has_batchnorm(upper), pretrained=job.backbone.weights != "none")
    return entrants if _steps(phase, images) >= WORTH_A_RACE else entrants[-1:]


def _steps(phase: Phase, images: int) -> int:
    return phase.epochs * -(-images // phase.batch_size)


def _won_before(job: Job, progress: Progress, phase: Phase) -> tuple[float, BatchNorm] | None:
    """The learning rate and the mode of BatchNorm that won a race further up, with the same optimizer."""
    raced = [each for each in progress.decisions if each["kept"] and each["tried"]]
    if not raced or job.plan[raced[-1]["phase"] - 1].optimizer != phase.optimizer:
        return None
    return raced[-1]["lr"], raced[-1]["batchnorm"]
