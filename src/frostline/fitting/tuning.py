"""A phase that trains: with the settings that it names, or those that do best; kept, or undone as if it never was."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from frostline import terminal
from frostline.errors import DivergedError
from frostline.fitting import lines
from frostline.fitting.decisions import Decision, decision, image_losses
from frostline.fitting.job import Job
from frostline.fitting.progress import Progress
from frostline.fitting.recording import decided, record, write_history
from frostline.network.part import Part
from frostline.plan import BatchNorm, Phase
from frostline.store.activations import Activations
from frostline.tasks import Loss, Outputs
from frostline.training.judging import predict_all
from frostline.training.optimizers import OptimizerState
from frostline.training.race import Heat, candidates
from frostline.training.statistics import norms_of, start_updated
from frostline.training.training import Epoch, Training

WORTH_A_RACE = 100  # steps of a phase: in fewer there is nothing to choose by, and the gentlest settings are safe
RACE_EPOCHS = 4
RACE_STEPS = 240  # of each candidate: a whole training where the phase is no longer than twice that, else one on a part
DEEPER = 0.5  # times the learning rate that won further up
LEARNT = 0.5  # times the share of validation images that are wrong: see `_learnt`


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a phase trains on: the part above its frostline, and the activations below it."""

    upper: Part
    train: Activations
    valid: Activations


@dataclass(frozen=True, eq=False)
class Incumbent:
    """What a phase starts from and has to beat: weights, validation outputs, and the loss that decides."""

    weights: dict[str, Tensor]
    outputs: Outputs
    loss: float


@dataclass(frozen=True, eq=False)
class Attempt:
    """What came of a phase with some settings: the progress by its epochs, and the best of these.

    improved: whether that is better than what the training started from.
    """

    phase: Phase
    progress: Progress
    epochs: tuple[Epoch, ...]
    outputs: Outputs
    loss: float
    improved: bool
    weights: dict[str, Tensor]
    optimizer: OptimizerState


def tune(job: Job, progress: Progress, phase: Phase, inputs: Inputs) -> Progress:
    """The progress after the phase's epochs, or fewer where it is no use; what does not pay is undone."""
    before = Incumbent(weights_of(inputs.upper), *judged(job, phase, inputs))
    entry = {"epoch": 0, "valid_loss": before.loss}
    progress = record(job, progress, phase, entry, job.objective.task.measure(before.outputs), 0.0)
    attempts = _attempts(job, progress, phase, inputs, before)
    best = min(attempts, key=lambda attempt: attempt.loss)
    progress = best.progress
    write_history(job, progress)  # another one may have been the last to write
    made = _decision(job, progress, best, attempts, before)
    inputs.upper.load_state_dict(best.weights if made.kept else before.weights)
    ended = _ended(job, best, made) if phase.race else ""
    optimizer = best.optimizer if made.kept else progress.optimizer
    progress = replace(decided(progress, made), ended=ended, optimizer=optimizer)
    if ended and len(progress.phases) + 1 < len(job.plan):
        terminal.say(f"  nothing deeper is tried: {ended}")
    return progress


def _ended(job: Job, best: Attempt, made: Decision) -> str:
    """Why nothing deeper is worth a try after this phase; "" where something may be."""
    if not made.kept:
        return f"{best.phase.frostline} did not pay"
    if _learnt(job, best.epochs[-1].train_accuracy, best.outputs):
        right = best.epochs[-1].train_accuracy
        return f"the training images are learnt, {100 * right:.1f} % of them right: deeper would learn them by heart"
    return ""


def _attempts(job: Job, progress: Progress, phase: Phase, inputs: Inputs, before: Incumbent) -> list[Attempt]:
    """The phase as it is, or with all settings that it leaves open; of a long one those that win on a part of it."""
    if not phase.race:
        usual: BatchNorm = "updated" if job.backbone.weights == "none" else "frozen"
        return _race(job, progress, [replace(phase, batchnorm=phase.batchnorm or usual)], inputs, before)
    entrants = _entrants(job, progress, phase, inputs)
    if len(entrants) > 1 and _steps(phase, inputs.train) > 2 * RACE_STEPS:
        few = torch.randperm(len(inputs.train.images), generator=torch.Generator().manual_seed(job.options.seed))
        images = few[: RACE_STEPS * phase.batch_size // RACE_EPOCHS].sort().values.numpy()
        part = replace(inputs, train=inputs.train.some(images))
        terminal.say(f"  on {len(images)} of {len(inputs.train.images)} images:")
        heats = _race(job, progress, [replace(each, epochs=RACE_EPOCHS) for each in entrants], part, before)
        best = min(heats, key=lambda attempt: attempt.loss).phase
        entrants = [replace(phase, lr=best.lr, batchnorm=best.batchnorm)]
    return _race(job, progress, entrants, inputs, before)


def _race(job: Job, progress: Progress, entrants: Sequence[Phase], inputs: Inputs, before: Incumbent) -> list[Attempt]:
    """Each of the entrants trained; who is behind the best one so far at half time leaves."""
    attempts: list[Attempt] = []
    for entrant in entrants:
        best = min(attempts, key=lambda attempt: attempt.loss, default=None)
        half = -(-entrant.epochs // 2)
        at_half = min((epoch.valid_loss for epoch in best.epochs[:half]), default=math.inf) if best else math.inf
        attempts.append(_attempt(job, progress, entrant, inputs, before, half, at_half))
    return attempts


def _entrants(job: Job, progress: Progress, phase: Phase, inputs: Inputs) -> list[Phase]:
    """The phase with all settings worth a try; where one further up was kept, with what won there."""
    if won := _won_before(progress):
        return [replace(phase, lr=phase.lr or DEEPER * won[0], batchnorm=phase.batchnorm or won[1])]
    pretrained = job.backbone.weights != "none"
    entrants = candidates(phase, has_batchnorm=bool(norms_of(inputs.upper)), pretrained=pretrained)
    return entrants if _steps(phase, inputs.train) >= WORTH_A_RACE else entrants[-1:]


def _steps(phase: Phase, train: Activations) -> int:
    return phase.epochs * -(-len(train.images) // phase.batch_size)


def _attempt(
    job: Job, progress: Progress, phase: Phase, inputs: Inputs, before: Incumbent, half: int, at_half: float
) -> Attempt:
    """Train the phase from what was there before it; no further than `half` where its loss is above `at_half` then.

    The network is left with whatever came of it.
    """
    _begin(job, progress, phase, inputs, before)
    if phase.race:
        lines.say_attempt(phase)
    training = _training(job, progress, phase, inputs)
    epochs: list[Epoch] = []
    try:
        for epoch in training:
            epochs.append(epoch)
            progress = record(job, progress, phase, asdict(epoch), epoch.valid, epoch.seconds)
            spent = training.epochs_without_improvement >= phase.patience
            behind = training.epoch == half and training.tried_loss > at_half
            if spent or behind or (phase.race and _hopeless(job, epoch.train_accuracy, training.tried_loss, before)):
                break
    except DivergedError as error:
        if not phase.race:
            raise
        terminal.say(f"  {error}")
    training.restore_best()
    improved = training.epochs_without_improvement < training.epoch and math.isfinite(training.tried_loss)
    weights, optimizer = weights_of(inputs.upper), training.optimizer_state()
    return Attempt(phase, progress, tuple(epochs), training.tried, training.tried_loss, improved, weights, optimizer)


def _decision(job: Job, progress: Progress, best: Attempt, attempts: Sequence[Attempt], before: Incumbent) -> Decision:
    """Kept where it won: by the test where the phase has to prove itself, else by a lower loss than the start's."""
    mode = best.phase.batchnorm or "frozen"
    tried = [Heat(a.phase.learning_rate, a.phase.batchnorm or "frozen", len(a.epochs), a.loss) for a in attempts]
    return decision(
        job.objective,
        before.outputs,
        best.outputs,
        phase=len(progress.phases) + 1,
        frostline=best.phase.frostline,
        how="trained",
        lr=best.phase.learning_rate,
        batchnorm=mode,
        won=best.improved and best.loss < before.loss,
        looks=max(1, sum(len(attempt.epochs) for attempt in attempts)) if best.phase.race else 0,
        tried=tried if best.phase.race else (),
    )


def judged(job: Job, phase: Phase, inputs: Inputs) -> tuple[Outputs, float]:
    """The outputs for the validation images, and the loss that decides."""
    return predict_all(inputs.upper, inputs.valid, job.objective.task, _monitor(job, phase))


def weights_of(upper: Part) -> dict[str, Tensor]:
    """A copy of all parameters and statistics."""
    return {name: value.detach().clone() for name, value in upper.state_dict().items()}


def _monitor(job: Job, phase: Phase) -> Loss:
    """By what the best epoch is found: where a phase has to prove itself, by what its proof is."""
    objective = job.objective
    if not phase.race or objective.own_loss or job.images.task == "segmentation":
        return objective.monitor
    return lambda logits, targets: image_losses(objective, objective.task.outputs(logits.cpu(), targets.cpu())).mean()


def _training(job: Job, progress: Progress, phase: Phase, inputs: Inputs) -> Training:
    return Training(
        job.network,
        inputs.upper,
        inputs.train,
        inputs.valid,
        phase,
        task=job.objective.task,
        loss=job.objective.smoothed if phase.race else job.objective.loss,
        monitor=_monitor(job, phase),
        balanced=job.options.balanced,
        seed=job.options.seed,
        precision=job.machine.training_precision,
        previous_optimizer=progress.optimizer,
    )


def _begin(job: Job, progress: Progress, phase: Phase, inputs: Inputs, before: Incumbent) -> None:
    """Put the network where the phase's training starts."""
    inputs.upper.load_state_dict(before.weights)
    up_to_date = (won := _won_before(progress)) is not None and won[1] == "updated"
    if phase.batchnorm == "updated" and norms_of(inputs.upper) and not up_to_date:
        start_updated(
            job.network,
            inputs.upper,
            phase.frostline,
            inputs.train,
            job.machine,
            seed=job.options.seed,
            class_weights=job.objective.class_weights,
            solvable=not job.objective.unsolvable,
        )


def _won_before(progress: Progress) -> tuple[float, BatchNorm] | None:
    """The learning rate and the mode of BatchNorm of the last phase that trained and was kept."""
    kept = [each for each in progress.decisions if each["kept"] and each["batchnorm"]]
    return (kept[-1]["lr"], kept[-1]["batchnorm"]) if kept else None


def _hopeless(job: Job, train_accuracy: float, loss: float, before: Incumbent) -> bool:
    """Whether more training cannot help: the training images are learnt, and nothing is won on others yet."""
    return loss >= before.loss and _learnt(job, train_accuracy, before.outputs)


def _learnt(job: Job, train_accuracy: float, valid: Outputs) -> bool:
    """Whether at most half as many of the training images are wrong as of the validation images."""
    wrong = 1 - float(job.objective.task.scores(valid).mean())
    return 1 - train_accuracy <= LEARNT * wrong
