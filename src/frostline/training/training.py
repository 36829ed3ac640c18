"""Training above the frostline, as an iterator: one row an epoch.

    for row in training:
        print(row.epoch, row.valid_loss)
        if training.stale == 3:
            break
    training.restore_best()

There are no callbacks: what happens after an epoch is written in the loop, and stopping early is `break`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from frostline import terminal
from frostline.engines.choice import release
from frostline.errors import DivergedError, UsageError
from frostline.network.network import Network
from frostline.network.part import Part
from frostline.plan import Phase
from frostline.store.activations import Activations
from frostline.tasks import Loss, Task, classification
from frostline.training.folding import fold_for_training
from frostline.training.judging import predict_all
from frostline.training.optimizers import OptimizerState, continue_optimizer, lr_factor, optimizer_of, state_by_name
from frostline.training.precision import faster_in_fp32, mixed


@dataclass(frozen=True)
class Epoch:
    """One epoch: losses, accuracies 0 … 1; training figures are running means while the weights move.

    valid: accuracy, the plain loss in nats, and what else the task is judged by, on the validation images.
    valid_loss: the loss that is trained, there.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    valid_loss: float
    valid_accuracy: float
    seconds: float
    valid: Mapping[str, float]


def _chance(*parts: object) -> int:
    """A seed decided by the parts alone, so that any epoch can be repeated without those before it."""
    text = " ".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")


class Training:
    """Trains what lies above the frostline on stored activations.

    network, upper: as `network.cut(phase.frostline)` left them. train, valid: activations of the lower part.
    task: how outputs are measured. loss: (logits, targets) -> scalar, what is trained; by default the task's plain one.
    monitor: the loss by which the best epoch is found on validation images; by default the one that is trained.
    balanced: draw the images so that every class is seen equally often.
    precision: "fp32", or "bf16" for what is computed between the parameters and the loss, where that is faster.
    freeze_batchnorm_statistics: leave the running statistics of BatchNorm as pretrained; small data sets would only
        spoil them.
    previous_optimizer: what `optimizer_state` gave after the phase before: the state of parameters that trained already
        is kept, where the optimizer is of the same kind.

    best, stale: the least validation loss so far (the starting weights count), and the epochs since then.
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
        balanced: bool = False,
        seed: int = 0,
        precision: str = "fp32",
        freeze_batchnorm_statistics: bool = True,
        previous_optimizer: OptimizerState | None = None,
    ) -> None:
        self.upper, self.train, self.valid, self.phase, self.seed = upper, train, valid, phase, seed
        self.task, self.freeze_batchnorm_statistics = task, freeze_batchnorm_statistics
        self.loss = loss or next(iter(task.losses.values()))
        self.monitor = monitor or self.loss
        self.device = next(upper.parameters()).device
        self.chances = _balance(train) if balanced else None
        self.optimizer = optimizer_of(network, phase)
        for group in self.optimizer.param_groups:
            group["highest_lr"] = group["lr"]
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in network.model.named_parameters()}
        continue_optimizer(self.optimizer, self._names, previous_optimizer or {})
        release()  # the copy of the frozen part that computed these activations
        sample = train.fetch(torch.arange(min(8, len(train)))).to(self.device)
        # The same modules, rearranged: what is computed of them in each step.
        self.computed = fold_for_training(upper, sample, phase.batch_size) if freeze_batchnorm_statistics else upper
        self.inside = self._inside(precision, sample)
        self.epoch = 0
        self.epochs_without_improvement = 0
        self.initial, self.best = self.evaluate()
        self._best_state = self._state()

    def evaluate(self) -> tuple[dict[str, float], float]:
        """What the task is judged by on the validation activations, and the loss that decides which epoch is best."""
        with self.inside():
            answers, loss = predict_all(self.computed, self.valid, self.task, self.monitor)
        return self.task.measure(answers), loss

    def __iter__(self) -> Iterator[Epoch]:
        while self.epoch < self.phase.epochs:
            yield self._next()

    def _next(self) -> Epoch:
        started = time.perf_counter()
        self.epoch += 1
        with torch.random.fork_rng():
            torch.manual_seed(_chance(self.seed, self.phase.frostline, self.epoch))
            train_loss, train_accuracy = self._pass()
        valid, loss = self.evaluate()
        if loss < self.best:
            self.best, self.epochs_without_improvement, self._best_state = loss, 0, self._state()
        else:
            self.epochs_without_improvement += 1
        lr = max(group["lr"] for group in self.optimizer.param_groups)
        seconds = time.perf_counter() - started
        return Epoch(self.epoch, lr, train_loss, train_accuracy, loss, valid["accuracy"], seconds, valid)

    def _pass(self) -> tuple[float, float]:
        """One epoch of steps; mean loss and accuracy over the images."""
        self.computed.train()
        if self.freeze_batchnorm_statistics:
            for module in self.computed.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        count = len(self.train.images)
        images = torch.randperm(count) if self.chances is None else torch.multinomial(self.chances, count, True)
        batches = list(images.split(self.phase.batch_size))
        if len(batches) > 1 and len(batches[-1]) == 1:  # BatchNorm has no statistics of one image
            batches[-2:] = [torch.cat(batches[-2:])]
        total_loss, correct = 0.0, 0.0
        label = f"epoch {self.epoch}/{self.phase.epochs}"
        rows = [batch * self.train.views + (batch + self.epoch) % self.train.views for batch in batches]
        with terminal.progress(label, len(images), "images") as advance:
            for i, (batch, inputs, targets) in enumerate(self.train.ahead(rows)):
                self._schedule((self.epoch - 1 + i / len(batches)) / self.phase.epochs)
                loss, accuracy = self._step(inputs.to(self.device), targets.to(self.device))
                total_loss += loss * len(batch)
                correct += accuracy * len(batch)
                advance(len(batch))
        return total_loss / len(images), correct / len(images)

    def _step(self, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
        """Loss and accuracy of one batch."""
        if self.phase.mixup and len(inputs) > 1:
            logits, loss = self._mixed(inputs, targets)
        else:
            logits = self._logits(inputs)
            loss = self.loss(logits, targets)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(
                f"the training loss became {value} in epoch {self.epoch} above {self.phase.frostline!r}; "
                f"try a smaller learning rate, as in --lr {self.phase.learning_rate / 10:g}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.phase.clip:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.phase.clip)
        self.optimizer.step()
        return value, self.task.accuracy(logits.detach(), targets)

    def _inside(self, precision: str, sample: Tensor) -> Callable[[], contextlib.AbstractContextManager[None]]:
        """What the network is run in; one layer alone, as a head, has nothing to gain from another precision."""
        layers = {name.rpartition(".")[0] for name, p in self.upper.named_parameters() if p.ndim > 1}
        if precision == "fp32" or len(layers) == 1:
            return contextlib.nullcontext
        return functools.partial(mixed, self.computed, faster_in_fp32(self.computed, sample), self.device)

    def _logits(self, inputs: Tensor) -> Tensor:
        with self.inside():
            logits: Tensor = self.computed(inputs)
        return logits.float()

    def _mixed(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and loss of activations that are each mixed with another one of the batch (Zhang et al. 2018)."""
        order = torch.randperm(len(inputs), device=inputs.device)
        share = float(torch.distributions.Beta(self.phase.mixup, self.phase.mixup).sample())
        logits = self._logits(share * inputs + (1 - share) * inputs[order])
        return logits, share * self.loss(logits, targets) + (1 - share) * self.loss(logits, targets[order])

    def _schedule(self, progress: float) -> None:
        """Set the learning rates for a point (0 … 1) of the phase."""
        factor = lr_factor(self.phase.schedule, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group["highest_lr"] * factor

    def _state(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.upper.state_dict().items()}

    def optimizer_state(self) -> OptimizerState:
        """What the optimizer remembers of each parameter, by the parameter's name in the network; a copy on the CPU."""
        return state_by_name(self.optimizer, self._names)

    def restore_best(self) -> None:
        """Put back the weights of the least validation loss: those from before the phase if it only did harm."""
        self.upper.load_state_dict(self._best_state)
        self.upper.eval()


def _balance(train: Activations) -> Tensor:
    """The chance of every image by which all classes are seen equally often; of several labels the rarest counts."""
    targets = train.images.targets
    if not isinstance(targets, np.ndarray):
        raise UsageError("classes of pixels cannot be balanced by drawing images; use class_weights='balanced'")
    if targets.ndim == 1:
        return torch.from_numpy(1 / np.bincount(targets)[targets])
    rarity = 1 / targets.sum(0).clip(1)
    none = 1 / max(1, int((~targets.any(1)).sum()))
    return torch.from_numpy(np.where(targets.any(1), (targets * rarity).max(1), none))
