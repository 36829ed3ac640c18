"""One attempt at a phase that trains: from the network before it, with fixed settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from torch import Tensor

from frostline import terminal
from frostline.errors import DivergedError, MachineError
from frostline.fitting import lines
from frostline.fitting.decisions import image_losses
from frostline.fitting.job import Job
from frostline.fitting.keeping import Keeper, keeper_of, kept
from frostline.fitting.progress import Progress, standing
from frostline.fitting.recording import record, recorded
from frostline.network.part import Part, weights_of
from frostline.plan import Phase
from frostline.signals import Held, held_back
from frostline.store.activations import Activations
from frostline.tasks import Outputs
from frostline.training.judging import predict_all
from frostline.training.optimizers import OptimizerState
from frostline.training.probe import soften_head
from frostline.training.race import Heat
from frostline.training.training import Epoch, Training

LEARNT = 0.75  # times the share of wrong validation images: see `learnt`


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a phase trains: the part above its frostline, and the activations below it."""

    upper: Part
    train: Activations
    valid: Activations


@dataclass(frozen=True, eq=False)
class Incumbent:
    """The network before a phase, which the phase has to beat.

    outputs, monitored: for the validation images, and the monitored loss there. loss: the one that decides.
    """

    weights: dict[str, Tensor]
    outputs: Outputs
    monitored: float
    loss: float


@dataclass(frozen=True, eq=False)
class Attempt:
    """The result of a phase with some settings.

    progress: with its epochs. images: number of training images.
    outputs, loss, weights, epoch: of the last epoch for a phase with `race`, so that the validation images do not
        choose among epochs as well; else, or if the fit stops here, of the best epoch.
    left: whether it stopped at half time, behind another setting, with a learning rate that is still high.
    """

    phase: Phase
    progress: Progress
    epochs: tuple[Epoch, ...]
    images: int
    outputs: Outputs
    loss: float
    weights: dict[str, Tensor]
    optimizer: OptimizerState
    epoch: int = 0
    left: bool = False

    @property
    def heat(self) -> Heat:
        losses, accuracies = (
            [getattr(epoch, name) for epoch in self.epochs] for name in ("deciding_loss", "valid_accuracy")
        )
        return Heat(
            self.phase.learning_rate,
            self.phase.batchnorm or "frozen",
            len(self.epochs),
            self.images,
            self.loss,
            tuple(losses),
            tuple(accuracies),
        )


def half_time(phase: Phase) -> int:
    """The epoch after which an attempt that is behind stops."""
    return -(-phase.epochs // 2)


def attempt(
    job: Job, progress: Progress, phase: Phase, inputs: Inputs, before: Incumbent, at_half: float = math.inf
) -> Attempt:
    """Train the phase from the network before it; stop half-way if its loss is above `at_half` there.

    The network keeps the resulting weights. What a fit that was interrupted has trained is not trained again.
    """
    if phase.race:
        lines.say_attempt(phase)
    inputs.upper.load_state_dict(before.weights)
    if phase.race and progress.phases[standing(progress)]["epochs"] == 0:
        soften_head(job.network, inputs.upper)
    epochs: list[Epoch] = []
    keeper = keeper_of(job, len(progress.phases) + 1, phase, len(inputs.train.images))
    try:
        training = _training(job, progress, phase, inputs)
        if found := kept(keeper):
            training.load_state_dict(found[0])
            epochs = found[1]
            if not job.stop_here:
                terminal.say(f"  going on in epoch {min(training.epoch + 1, phase.epochs)}")
            progress = recorded(job, progress, phase, [(asdict(each), each.valid, each.seconds) for each in epochs])
        enough = bool(epochs) and _enough(job, training, epochs[-1], before, at_half)
        with held_back() as held:
            for epoch in () if enough or job.stop_here else _kept(training, keeper, epochs, held):
                progress = record(job, progress, phase, asdict(epoch), epoch.valid, epoch.seconds)
                if reason := _enough(job, training, epoch, before, at_half):
                    if training.epoch < phase.epochs:
                        terminal.say(f"  {reason}")
                    break
    except DivergedError as error:
        if not phase.race:
            raise
        terminal.say(f"  this setting is out: {error}")
        count = len(inputs.train.images)
        return Attempt(phase, progress, tuple(epochs), count, before.outputs, math.inf, before.weights, {})
    finally:
        inputs.upper.eval()
    if phase.race and not job.stop_here:
        outputs, loss, number = training.latest, epochs[-1].deciding_loss, len(epochs)
    else:  # what was stopped within an epoch was never measured
        training.restore_best()
        outputs = training.tried
        loss = training.best if training.improved else max(training.tried_loss, before.loss)
        number = min(epochs, key=lambda each: each.deciding_loss).epoch if epochs else 0
    return Attempt(
        phase,
        progress,
        tuple(epochs),
        len(inputs.train.images),
        outputs,
        loss,
        weights_of(inputs.upper),
        training.optimizer_state(),
        number,
        bool(epochs) and _is_behind(phase, epochs[-1], at_half),
    )


def _kept(training: Training, keeper: Keeper, epochs: list[Epoch], held: Held) -> Iterator[Epoch]:
    """The epochs of a training, added to those so far; its state is kept on the way.

    held: Ctrl-C or SIGTERM, which wait until the step is done and its state is written.
    """
    try:
        for reached in training.steps():
            epochs += [reached] if reached else []
            if held.came or keeper.is_due(after_epoch=reached is not None):
                keeper.keep(training, epochs)
            held.act()
            if reached:
                yield reached
    except MachineError:  # another process is gone, and with it the last step
        keeper.keep(training, epochs)
        raise


def judged(job: Job, phase: Phase, inputs: Inputs) -> tuple[Outputs, float, float]:
    """The outputs for the validation images, the monitored loss, and the one that decides."""
    outputs, loss = predict_all(inputs.upper, inputs.valid, job.objective.task, job.objective.monitor)
    judge = judge_of(job, phase)
    return outputs, loss, judge(outputs) if judge else loss


def judge_of(job: Job, phase: Phase) -> Callable[[Outputs], float] | None:
    """The function that decides, lower is better; None for the monitored loss.

    The options' metric; else, for a phase with `race`, the loss of its test.
    """
    if job.objective.score:
        score = job.objective.score[1]
        return lambda outputs: 1 - score(outputs)
    return (lambda outputs: float(image_losses(job.objective, outputs).mean())) if phase.race else None


def _training(job: Job, progress: Progress, phase: Phase, inputs: Inputs) -> Training:
    return Training(
        job.network,
        inputs.upper,
        inputs.train,
        inputs.valid,
        phase,
        task=job.objective.task,
        loss=job.objective.smoothed if phase.race else job.objective.loss,
        monitor=job.objective.monitor,
        judge=judge_of(job, phase),
        balanced=job.options.balanced,
        seed=job.options.seed,
        precision=job.machine.training_precision,
        previous_optimizer=progress.optimizer,
    )


def _enough(job: Job, training: Training, epoch: Epoch, before: Incumbent, at_half: float) -> str:
    """Why the training stops; "" if it goes on."""
    phase = training.phase
    if not phase.race and training.epochs_without_improvement >= phase.patience:
        return f"stopped: no improvement for {phase.patience} epoch{'s' * (phase.patience > 1)}"
    if _is_behind(phase, epoch, at_half):
        return "stopped at half time: behind the other setting"
    if phase.race and training.tried_loss >= before.loss and learnt(job, epoch.train_accuracy, before.outputs):
        return "stopped: it has learnt the training images, and validation does not improve"
    return ""


def _is_behind(phase: Phase, epoch: Epoch, at_half: float) -> bool:
    return epoch.epoch == half_time(phase) and epoch.deciding_loss > at_half


def learnt(job: Job, train_accuracy: float, valid: Outputs) -> bool:
    """Whether the training error is at most three quarters of the validation error."""
    wrong = 1 - float(job.objective.task.scores(valid).mean())
    return 1 - train_accuracy <= LEARNT * wrong
