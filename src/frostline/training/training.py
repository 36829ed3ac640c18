"""Training above the frostline, as an iterator: one record per epoch.

    for epoch in training:
        print(epoch.epoch, epoch.valid_loss)
        if training.epochs_without_improvement == 3:
            break
    training.restore_best()

There are no callbacks: code after an epoch goes into the loop, and stopping early is `break`. `steps()` is the same
loop step by step. Between any two steps `state_dict()` holds everything that another process needs to resume without
any difference.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from frostline import terminal
from frostline.engines.choice import release
from frostline.errors import DivergedError, UsageError, WeightsError
from frostline.machine import exact
from frostline.network.network import Network
from frostline.network.part import Part, weights_of
from frostline.plan import Phase
from frostline.store.activations import Activations
from frostline.tasks import Loss, Outputs, Task, classification, outputs_from
from frostline.training.chance import drawn_from, seed_of, seeded
from frostline.training.folding import fold_for_training
from frostline.training.judging import BATCH, predict_all
from frostline.training.numbers import loss_and_gradients, named, refuse_activations, without_number
from frostline.training.optimizers import OptimizerState, continue_optimizer, lr_factor, optimizer_of, state_by_name
from frostline.training.parallel import in_all_processes, judged, send_epoch, send_step
from frostline.training.precision import faster_in_fp32
from frostline.training.steps import Stepper, drawn_mix


@dataclass(frozen=True)
class Epoch:
    """One epoch: losses, accuracies 0 … 1; training figures are running means while the weights change.

    valid: accuracy, the plain loss in nats, and the task's other metrics, on the validation images.
    valid_loss: the monitored loss there. deciding_loss: the loss that picks the best epoch.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    valid_loss: float
    deciding_loss: float
    valid_accuracy: float
    seconds: float
    valid: Mapping[str, float]


@dataclass(frozen=True)
class Position:
    """A point within an epoch: the steps taken, the sums over their images, their seconds, the random states after."""

    steps: int = 0
    loss: float = 0.0
    correct: float = 0.0
    seconds: float = 0.0
    random: tuple[Tensor, ...] = ()


class Training:
    """Trains the part above the frostline on stored activations; iterate over it for one `Epoch` after the other.

    network, upper: after `network.cut(phase.frostline)`. train, valid: activations of the lower part.
    task: measures the outputs. loss: (logits, targets) -> scalar, the training loss; by default the task's plain one.
    monitor: the loss measured on the validation images; by default the training loss.
    judge: Outputs -> number, lower is better, which picks the best epoch; by default the monitored loss.
    balanced: sample the images so that each class is seen equally often.
    seed: for the order of the images, dropout and mixup in every epoch.
    precision: "fp32", or "bf16" for the computation between parameters and loss, where that is faster.
    previous_optimizer: the `optimizer_state()` after the previous phase; parameters that trained there continue with
        it, if the optimizer is of the same kind.

    epoch: number of finished epochs. position: in the next one. initial: the task's metrics on the validation images
        before the first epoch.
    start, tried, latest: the outputs for these images before the first epoch, after the best epoch (maybe no
        improvement), and after the last one.
    start_loss, tried_loss: the deciding losses of the first two.
    best, epochs_without_improvement: the lowest deciding loss so far (the initial weights count), in nats for a
        task's own losses, and the number of epochs since then.

    Raises UsageError if nothing trains, and DivergedError, which names images, if a loss or gradient is not finite.
    """

    def __init__(
        self,
        network: Network,
        upper: Part,
        train: Activations,
        valid: Activations,
        phase: Phase,
        *,
        task: Task = classification.TASK,
        loss: Loss | None = None,
        monitor: Loss | None = None,
        judge: Callable[[Outputs], float] | None = None,
        balanced: bool = False,
        seed: int = 0,
        precision: str = "fp32",
        previous_optimizer: OptimizerState | None = None,
    ) -> None:
        self.upper, self.train, self.valid, self.phase, self.seed = upper, train, valid, phase, seed
        self.task = task
        loss = loss or next(iter(task.losses.values()))
        self.monitor, self.judge = monitor or loss, judge
        self.device = next(upper.parameters()).device
        self.chances = _balance(train) if balanced else None
        self.optimizer = optimizer_of(network, phase)
        for group in self.optimizer.param_groups:
            group["highest_lr"] = group["lr"]
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in network.model.named_parameters()}
        continue_optimizer(self.optimizer, self._names, previous_optimizer or {})
        release()  # the copy of the frozen part that computed these activations
        sample = train.fetch(torch.arange(min(8, len(train)))).to(self.device)
        # The same modules, rearranged for faster steps.
        self.computed = upper if phase.batchnorm == "updated" else fold_for_training(upper, sample, phase.batch_size)
        in_fp32 = self._kept_in_fp32(precision, sample)
        self.stepper = Stepper(self.computed, self.optimizer, loss, phase, self.device, in_fp32)
        self.epoch, self.position = 0, Position()
        self.epochs_without_improvement = 0
        self.start, _, self.start_loss = self._judged(0)
        self.best = self.start_loss
        self.tried, self.tried_loss, self.latest = self.start, math.inf, self.start
        self._best_weights, self._best_optimizer = weights_of(self.upper), self.optimizer_state()

    @property
    def initial(self) -> dict[str, float]:
        return self.task.measure(self.start)

    @property
    def improved(self) -> bool:
        """Whether any epoch has a lower validation loss than the start."""
        return self.best < self.start_loss

    def evaluate(self) -> tuple[dict[str, float], float]:
        """The task's metrics on the validation activations, and the loss that picks the best epoch.

        Raises DivergedError if that loss is not finite, because no epoch could then be better than another.
        """
        outputs, _, deciding = self._judged(self.epoch)
        return self.task.measure(outputs), deciding

    def _judged(self, epoch: int, *, together: bool = False) -> tuple[Outputs, float, float]:
        """Outputs for the validation images, the monitored loss, and the deciding one.

        together: in all processes that take part in the steps. They have the weights that the steps gave them, so it
        is only for right after these.
        """
        stepper, others = self.stepper, self.stepper.together if together else None
        with stepper.inside(), stepper.answering():
            if others is not None and others.judges:
                size = others.group.size * min(BATCH, self.phase.batch_size)
                logits = functools.partial(judged, stepper, others, self.valid)
                outputs, loss = predict_all(self.computed, self.valid, self.task, self.monitor, logits, size)
            else:
                outputs, loss = predict_all(self.computed, self.valid, self.task, self.monitor)
        deciding = loss if self.judge is None else self.judge(outputs)
        wrong = without_number(outputs)
        if wrong or not math.isfinite(loss + deciding):
            found = loss + deciding if not math.isfinite(loss + deciding) else math.nan
            what = "validation loss" if wrong or not math.isfinite(loss) else "validation figure that decides"
            raise self._diverged(what, found, named(self.valid.images.names, wrong), epoch)
        return outputs, loss, deciding

    def __iter__(self) -> Iterator[Epoch]:
        return (reached for reached in self.steps() if reached is not None)

    def steps(self) -> Iterator[Epoch | None]:
        """The same step by step: None after each step, and after the last one of an epoch its `Epoch`.

        A loop that breaks after a step goes on from there with the next `steps()`.
        Raises MachineError if another process that takes part in the steps is gone; the last step is then undone.
        """
        with in_all_processes(self.stepper, self.train, self.valid, self.seed):
            while self.epoch < self.phase.epochs:
                yield from self._pass()
                yield self._finished()

    def _pass(self) -> Iterator[None]:
        """The steps of an epoch that are left."""
        random = seeded(seed_of(self.seed, self.phase.frostline, self.epoch + 1), self.device)
        with drawn_from(random, self.device):
            batches = self._batches()
        here, rows = self.position, [self._rows(batch) for batch in batches]
        if here.steps:
            random = list(here.random)
            self.stepper.set_lr(self._lr_factor((here.steps - 1) / len(batches)))
        send_epoch(self.stepper, self.epoch, here.steps, rows[here.steps :])
        label, done = f"epoch {self.epoch + 1}/{self.phase.epochs}", sum(map(len, batches[: here.steps]))
        with terminal.progress(label, len(self.train.images), "images") as advance:
            advance(done)
            started = time.perf_counter()
            for batch, inputs, targets in self.train.ahead(rows[here.steps :], self.stepper.read):
                with exact(self.device), drawn_from(random, self.device):
                    factor = self._lr_factor(here.steps / len(batches))
                    loss, accuracy = self._step(inputs.to(self.device), targets.to(self.device), batch, factor)
                now, count = time.perf_counter(), len(batch)
                seconds = here.seconds + now - started
                here = Position(
                    here.steps + 1, here.loss + loss * count, here.correct + accuracy * count, seconds, tuple(random)
                )
                self.position = here
                advance(count)
                yield
                started = time.perf_counter()

    def _batches(self) -> list[Tensor]:
        """The numbers of the images of each step of an epoch."""
        count = len(self.train.images)
        images = torch.randperm(count) if self.chances is None else torch.multinomial(self.chances, count, True)
        batches = list(images.split(self.phase.batch_size))
        if len(batches) > 1 and len(batches[-1]) == 1:  # BatchNorm needs more than one image
            batches[-2:] = [torch.cat(batches[-2:])]
        return batches

    def _rows(self, batch: Tensor) -> Tensor:
        """The rows of some images in this epoch: another view in each."""
        return batch * self.train.views + (batch + self.epoch + 1) % self.train.views

    def _finished(self) -> Epoch:
        """The record of an epoch whose steps are taken."""
        started, here, images = time.perf_counter(), self.position, len(self.train.images)
        outputs, loss, deciding = self._judged(self.epoch + 1, together=True)
        self.epoch, self.position = self.epoch + 1, Position()
        self.latest, valid = outputs, self.task.measure(outputs)
        if deciding < self.tried_loss:
            self.tried, self.tried_loss = outputs, deciding
        if deciding < self.best:
            self.best, self.epochs_without_improvement = deciding, 0
            self._best_weights, self._best_optimizer = weights_of(self.upper), self.optimizer_state()
        else:
            self.epochs_without_improvement += 1
        return Epoch(
            self.epoch,
            max(group["lr"] for group in self.optimizer.param_groups),
            here.loss / images,
            here.correct / images,
            loss,
            deciding,
            valid["accuracy"],
            here.seconds + time.perf_counter() - started,
            valid,
        )

    def _step(self, inputs: Tensor, targets: Tensor, rows: Tensor, factor: float = 1.0) -> tuple[float, float]:
        """Loss and accuracy of one batch, which are those rows of the activations. factor: of the learning rates."""
        stepper = self.stepper
        stepper.set_lr(factor)
        mix = drawn_mix(self.phase, len(targets), self.device)
        send_step(stepper, factor, mix)
        with stepper.answering():
            logits, loss = stepper.gradients(inputs, targets, mix)
            gradients = [p.grad for p in stepper.parameters() if p.grad is not None]
            value, gradient = loss_and_gradients(loss, gradients)
        if not math.isfinite(value + gradient):
            self._refuse_step(value, gradient, rows)
        stepper.update()
        return value, self.task.accuracy(logits.detach(), targets)

    def _kept_in_fp32(self, precision: str, sample: Tensor) -> frozenset[str] | None:
        """The layers that stay in fp32; None for all: a single layer, as a head, gains nothing from bf16."""
        layers = {name.rpartition(".")[0] for name, p in self.upper.named_parameters() if p.ndim > 1}
        return None if precision == "fp32" or len(layers) == 1 else faster_in_fp32(self.computed, sample)

    def _lr_factor(self, share: float) -> float:
        """The factor of the learning rates after a share (0 … 1) of this epoch's steps."""
        return lr_factor(self.phase.schedule, (self.epoch + share) / self.phase.epochs)

    def _refuse_step(self, value: float, gradient: float, rows: Tensor) -> NoReturn:
        """Raise the error of a step whose loss or gradients are no numbers, before it reaches the weights."""
        refuse_activations(self.train, rows, self.train.fetch(rows))
        found = ("training loss", value) if not math.isfinite(value) else ("gradient of the training loss", gradient)
        images = named(self.train.images.names, (rows // self.train.views).tolist())
        raise self._diverged(*found, images, self.epoch + 1)

    def _diverged(self, what: str, found: float, images: str, epoch: int) -> DivergedError:
        of = f" (for {images})" if images else ""
        if epoch == 0:
            return DivergedError(
                f"the {what} above {self.phase.frostline!r} is {found} before any training{of}; "
                "try --precision fp32, and check the pretrained weights, the loss and the class weights"
            )
        return DivergedError(
            f"the {what} became {found} in epoch {epoch} above {self.phase.frostline!r}{of}; "
            f"try a smaller learning rate, as in --lr {self.phase.learning_rate / 10:g}"
        )

    def optimizer_state(self) -> OptimizerState:
        """The optimizer's state per parameter, by the parameter's name in the network; a copy on the CPU."""
        return state_by_name(self.optimizer, self._names)

    def _load_optimizer(self, state: OptimizerState) -> None:
        self.optimizer.state.clear()
        continue_optimizer(self.optimizer, self._names, state)

    def restore_best(self) -> None:
        """Restore the weights with the lowest validation loss, and the optimizer's state of that epoch.

        They are those from before the phase if no epoch was better.
        """
        self.upper.load_state_dict(self._best_weights)
        self._load_optimizer(self._best_optimizer)
        self.upper.eval()

    def state_dict(self) -> dict[str, Any]:
        """The state of the training between two steps: numbers, and copies of tensors under plain names.

        On the CPU in fp32, a training with the same arguments that loads it continues bit for bit.
        """
        return {
            "optimizer_kind": self.phase.optimizer,
            "epoch": self.epoch,
            "position": asdict(self.position),
            "epochs_without_improvement": self.epochs_without_improvement,
            "start": asdict(self.start),
            "start_loss": self.start_loss,
            "best": self.best,
            "tried": asdict(self.tried),
            "tried_loss": self.tried_loss,
            "latest": asdict(self.latest),
            "weights": weights_of(self.upper),
            "optimizer": self.optimizer_state(),
            "best_weights": dict(self._best_weights),
            "best_optimizer": dict(self._best_optimizer),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a `state_dict()`; raises WeightsError for the state of another network or phase."""
        weights, kind = state["weights"], state["optimizer_kind"]
        expected = {name: value.shape for name, value in self.upper.state_dict().items()}
        if {name: value.shape for name, value in weights.items()} != expected:
            raise WeightsError(
                f"the saved state holds {len(weights)} tensors that are not the {len(expected)} above "
                f"{self.phase.frostline!r}; resume with the backbone, the classes and the plan that it was saved with"
            )
        if kind != self.phase.optimizer:
            raise WeightsError(
                f"the saved state is of the optimizer {kind}, but the phase trains with {self.phase.optimizer}; "
                "resume with the plan that it was saved with"
            )
        self.upper.load_state_dict(weights)
        self._load_optimizer(state["optimizer"])
        self.epoch, self.epochs_without_improvement = state["epoch"], state["epochs_without_improvement"]
        self.position = Position(**{**state["position"], "random": tuple(state["position"]["random"])})
        self.start, self.start_loss, self.best = outputs_from(state["start"]), state["start_loss"], state["best"]
        self.tried, self.tried_loss = outputs_from(state["tried"]), state["tried_loss"]
        self.latest = outputs_from(state["latest"])
        self._best_weights, self._best_optimizer = state["best_weights"], state["best_optimizer"]


def _balance(train: Activations) -> Tensor:
    """The sampling weight of each image that shows all classes equally often; for several labels the rarest counts."""
    targets = train.images.targets
    if not isinstance(targets, np.ndarray):
        raise UsageError("sampling images cannot balance classes of pixels; use class_weights='balanced'")
    if targets.ndim == 1:
        return torch.from_numpy(1 / np.bincount(targets)[targets])
    rarity = 1 / targets.sum(0).clip(1)
    none = 1 / max(1, int((~targets.any(1)).sum()))
    return torch.from_numpy(np.where(targets.any(1), (targets * rarity).max(1), none))
