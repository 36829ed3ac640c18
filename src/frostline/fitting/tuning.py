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
    """What came of a phase with some settings.

    progress: by its epochs. images: on how many it trained. outputs, loss, weights: of the best there was, its start
        included where that is not what was there before the phase. tried: the outputs of the best epoch.
    """

    phase: Phase
    progress: Progress
    epochs: tuple[Epoch, ...]
    images: int
    outputs: Outputs
    loss: float
    weights: dict[str, Tensor]
    tried: Outputs
    optimizer: OptimizerState

    @property
    def heat(self) -> Heat:
        phase = self.phase
        return Heat(phase.learning_rate, phase.batchnorm or "frozen", len(self.epochs), self.images, self.loss)


def tune(job: Job, progress: Progress, phase: Phase, inputs: Inputs) -> Progress:
    """The progress after the phase's epochs, or fewer where it is no use; what does not pay is undone."""
    before = Incumbent(weights_of(inputs.upper), *judged(job, phase, inputs))
    entry = {"epoch": 0, "valid_loss": before.loss}
    progress = record(job, progress, phase, entry, job.objective.task.measure(before.outputs), 0.0)
    attempts, heats = _attempts(job, progress, phase, inputs, before)
    best = _best(attempts)
    progress = best.progress
    write_history(job, progress)  # another one may have been the last to write
    made = _decision(job, progress, best, heats, before)
    inputs.upper.load_state_dict(best.weights if made.kept else before.weights)
    ended = _ended(job, best, made) if phase.race else ""
    optimizer = best.optimizer if made.kept else progress.optimizer
    progress = replace(decided(progress, made), ended=ended, optimizer=optimizer)
    if ended and len(progress.phases) + 1 < len(job.plan):
        terminal.say(f"  nothing deeper is tried: {ended}")
    return progress


def _best(attempts: Sequence[Attempt]) -> Attempt:
    """The one of the least loss; of equal ones the last, which is the gentlest."""
    return min(reversed(attempts), key=lambda attempt: attempt.loss)


def _ended(job: Job, best: Attempt, made: Decision) -> str:
    """Why nothing deeper is worth a try after this phase; "" where something may be."""
    if not made.kept:
        return f"{best.phase.frostline} did not pay"
    if best.epochs and _learnt(job, best.epochs[-1].train_accuracy, best.outputs):
        right = best.epochs[-1].train_accuracy
        return f"the training images are learnt, {100 * right:.1f} % of them right: deeper would learn them by heart"
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
    if len(entrants) > 1 and _steps(phase, inputs.train) > 2 * RACE_STEPS:
        few = torch.randperm(len(inputs.train.images), generator=torch.Generator().manual_seed(job.options.seed))
        images = few[: RACE_STEPS * phase.batch_size // RACE_EPOCHS].sort().values.numpy()
        part = replace(inputs, train=inputs.train.some(images))
        terminal.say(f"  on {len(images)} of {len(inputs.train.images)} images:")
        on_part = _race(job, progress, [replace(each, epochs=RACE_EPOCHS) for each in entrants], part, before)
        heats, won = [attempt.heat for attempt in on_part], _best(on_part).phase
        entrants = [replace(phase, lr=won.lr, batchnorm=won.batchnorm)]
    attempts = _race(job, progress, entrants, inputs, before)
    return attempts, [*heats, *(attempt.heat for attempt in attempts)]


def _race(job: Job, progress: Progress, entrants: Sequence[Phase], inputs: Inputs, before: Incumbent) -> list[Attempt]:
    """Each of the entrants trained; who is behind the best one so far at half time leaves."""
    attempts: list[Attempt] = []
    for entrant in entrants:
        half = -(-entrant.epochs // 2)
        at_half = math.inf
        if attempts:
            at_half = min((epoch.valid_loss for epoch in _best(attempts).epochs[:half]), default=math.inf)
        attempts.append(_attempt(job, progress, entrant, inputs, before, half, at_half))
    return attempts


def _entrants(job: Job, progress: Progress, phase: Phase, inputs: Inputs) -> list[Phase]:
    """The phase with all settings worth a try; where one further up was kept, with what won there."""
    if won := _won_before(job, progress, phase):
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
    if phase.race:
        lines.say_attempt(phase)
    moved = _begin(job, progress, phase, inputs, before)
    epochs: list[Epoch] = []
    try:
        training = _training(job, progress, phase, inputs, new_head=moved)
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
    if not epochs:  # it diverged at once
        count = len(inputs.train.images)
        return Attempt(phase, progress, (), count, before.outputs, math.inf, before.weights, before.outputs, {})
    training.restore_best()
    there = training.improved or moved
    return Attempt(
        phase,
        progress,
        tuple(epochs),
        len(inputs.train.images),
        training.best_outputs,
        training.best if there else max(training.tried_loss, before.loss),
        weights_of(inputs.upper),
        training.tried,
        training.optimizer_state(),
    )


def _decision(job: Job, progress: Progress, best: Attempt, heats: Sequence[Heat], before: Incumbent) -> Decision:
    """Kept where it won: by the test where the phase has to prove itself, else by a lower loss than the start's."""
    won = best.loss < before.loss
    return decision(
        job.objective,
        before.outputs,
        best.outputs if won else best.tried,
        phase=len(progress.phases) + 1,
        frostline=best.phase.frostline,
        how="trained",
        lr=best.phase.learning_rate,
        batchnorm=best.phase.batchnorm or "frozen",
        won=won,
        looks=sum(heat.epochs for heat in heats),
        tried=heats,
    )


def judged(job: Job, phase: Phase, inputs: Inputs) -> tuple[Outputs, float]:
    """The outputs for the validation images, and the loss that decides."""
    return predict_all(inputs.upper, inputs.valid, job.objective.task, _monitor(job, phase))


def weights_of(upper: Part) -> dict[str, Tensor]:
    """A copy of all parameters and statistics."""
    return {name: value.detach().clone() for name, value in upper.state_dict().items()}


def _monitor(job: Job, phase: Phase) -> Loss:
    """By what the best epoch is found: where a phase has to prove itself, by what proves it, but of a segmentation."""
    objective = job.objective
    if not phase.race or objective.own_loss or job.images.task == "segmentation":
        return objective.monitor

    def monitor(logits: Tensor, targets: Tensor) -> Tensor:
        return image_losses(objective, objective.task.outputs(logits.cpu(), targets.cpu())).mean()

    return monitor


def _training(job: Job, progress: Progress, phase: Phase, inputs: Inputs, *, new_head: bool) -> Training:
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
        previous_optimizer={} if new_head else progress.optimizer,
    )


def _begin(job: Job, progress: Progress, phase: Phase, inputs: Inputs, before: Incumbent) -> bool:
    """Put the network where the phase's training starts; whether that is not what was there before the phase.

    Where a phase further up was kept with updated statistics, they and the head are those of these images by now.
    """
    inputs.upper.load_state_dict(before.weights)
    kept = [each["batchnorm"] for each in progress.decisions if each["kept"]]
    if phase.batchnorm != "updated" or "updated" in kept or not norms_of(inputs.upper):
        return False
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
    return True


def _won_before(job: Job, progress: Progress, phase: Phase) -> tuple[float, BatchNorm] | None:
    """The learning rate and the mode of BatchNorm that won a race further up, with the same optimizer."""
    raced = [each for each in progress.decisions if each["kept"] and each["tried"]]
    if not raced or job.plan[raced[-1]["phase"] - 1].optimizer != phase.optimizer:
        return None
    return raced[-1]["lr"], raced[-1]["batchnorm"]


def _hopeless(job: Job, train_accuracy: float, loss: float, before: Incumbent) -> bool:
    """Whether more training cannot help: the training images are learnt, and nothing is won on others yet."""
    return loss >= before.loss and _learnt(job, train_accuracy, before.outputs)


def _learnt(job: Job, train_accuracy: float, valid: Outputs) -> bool:
    """Whether at most half as many of the training images are wrong as of the validation images."""
    wrong = 1 - float(job.objective.task.scores(valid).mean())
    return 1 - train_accuracy <= LEARNT * wrong
