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
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from frostline import terminal
from frostline.activations import Activations
from frostline.errors import DivergedError, UsageError
from frostline.folding import fold_for_training
from frostline.machine import keep_freed_memory
from frostline.network import Network
from frostline.part import Part
from frostline.plan import Phase
from frostline.precision import faster_in_fp32, mixed
from frostline.tasks import Answers, Loss, Task, classification, join

WARM_UP = 0.1  # of all steps: the learning rate rises linearly


@dataclass(frozen=True)
class Row:
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


def parameter_groups(
    network: Network, lr: float, lr_decay: float = 1.0, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """What trains now, each parameter once, for any torch optimizer.

    lr: of the head; each stage further down gets `lr_decay` times the one above.
    weight_decay: of all but biases and norms (vectors).
    """
    groups = []
    rate = lr
    for name, parameters in reversed(network.stage_parameters().items()):
        trained = [p for p in parameters if p.requires_grad]
        for decays, members in (
            (True, [p for p in trained if p.ndim > 1]),
            (False, [p for p in trained if p.ndim <= 1]),
        ):
            if members:
                groups.append({"params": members, "lr": rate, "weight_decay": weight_decay * decays, "stage": name})
        rate *= lr_decay if parameters else 1.0
    return groups


def optimizer_of(network: Network, phase: Phase) -> torch.optim.Optimizer:
    """The phase's optimizer, holding exactly what trains; raises UsageError where nothing does."""
    groups = parameter_groups(network, phase.learning_rate, phase.lr_decay, phase.weight_decay)
    if not groups:
        raise UsageError(f"nothing trains above {phase.frostline!r}: everything there is frozen")
    if phase.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=phase.learning_rate, momentum=phase.momentum, fused=True)
    kind = torch.optim.Adam if phase.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=phase.learning_rate, fused=True)  # one pass over a parameter instead of ten


def scheduled(schedule: str, progress: float) -> float:
    """The share of the highest learning rate at a point (0 … 1) of a phase."""
    if schedule == "constant":
        return 1.0
    warm = min(1.0, (progress + 0.01) / WARM_UP)
    if schedule == "step":
        return warm * 0.1 ** math.floor(3 * min(progress, 0.999))
    return warm * 0.5 * (1 + math.cos(math.pi * max(0.0, progress - WARM_UP) / (1 - WARM_UP)))


@torch.inference_mode()
def answers_of(
    upper: nn.Module, inputs: Activations, task: Task = classification, loss: Loss | None = None
) -> tuple[Answers, float]:
    """What a network says of all rows in evaluation mode, on the CPU, and the mean of a loss, or of the plain one."""
    device = next(upper.parameters()).device
    was_training = upper.training
    upper.eval()
    parts, total = [], 0.0
    maps = inputs.images.task == "segmentation"  # too large to keep them all: their loss is the mean over the batches
    for x, targets in inputs.batches(16 if maps else 128):
        logits = upper(x.to(device)).float()
        parts.append(task.answers(logits.cpu(), targets))
        total += float(loss(logits, targets.to(device))) * len(targets) if loss and maps else 0.0
    upper.train(was_training)
    answers = join(parts)
    if loss is None:
        return answers, float(answers.losses.mean())
    if maps:
        return answers, total / len(inputs)
    return answers, float(loss(answers.outputs.to(device), answers.targets.to(device)))


def _chance(*parts: object) -> int:
    """A seed decided by the parts alone, so that any epoch can be repeated without those before it."""
    text = " ".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")


class Training:
    """Trains what lies above the frostline on stored activations.

    network, upper: as `network.cut(phase.frostline)` left them. train, valid: activations of the lower part.
    task: how outputs are measured. loss: (logits, targets) -> scalar, what is trained; by default the task's plain one.
    judge: the loss by which the best epoch is found on validation images; by default the one that is trained.
    balanced: draw the images so that every class is seen equally often.
    precision: "fp32", or "bf16" for what is computed between the parameters and the loss, where that is faster.
    keep_statistics: leave the running statistics of BatchNorm as pretrained; small data sets would only spoil them.
    carried: the optimizer of the phase before, whose state of the parameters that trained already is kept.

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
        task: Task = classification,
        loss: Loss | None = None,
        judge: Loss | None = None,
        balanced: bool = False,
        seed: int = 0,
        precision: str = "fp32",
        keep_statistics: bool = True,
        carried: torch.optim.Optimizer | None = None,
    ) -> None:
        self.upper, self.train, self.valid, self.phase, self.seed = upper, train, valid, phase, seed
        self.task, self.keep_statistics = task, keep_statistics
        self.loss = loss or next(iter(task.LOSSES.values()))
        self.judge = judge or self.loss
        self.device = next(upper.parameters()).device
        self.chances = _balance(train) if balanced else None
        self.optimizer = optimizer_of(network, phase)
        for group in self.optimizer.param_groups:
            group["highest_lr"] = group["lr"]
            for parameter in group["params"]:
                if type(carried) is type(self.optimizer) and parameter in carried.state:
                    self.optimizer.state[parameter] = carried.state[parameter]
        keep_freed_memory()
        sample = train.fetch(torch.arange(min(8, len(train)))).to(self.device)
        # The same modules, rearranged: what is computed of them in each step.
        self.computed = fold_for_training(upper, sample, phase.batch_size) if keep_statistics else upper
        self.inside = self._inside(precision, sample)
        self.epoch = 0
        self.stale = 0
        self.start, self.best = self.evaluate()
        self._best_state = self._state()

    def evaluate(self) -> tuple[dict[str, float], float]:
        """What the task is judged by on the validation activations, and the loss that decides which epoch is best."""
        with self.inside():
            answers, loss = answers_of(self.computed, self.valid, self.task, self.judge)
        return self.task.measure(answers), loss

    def __iter__(self) -> Iterator[Row]:
        while self.epoch < self.phase.epochs:
            yield self._next()

    def _next(self) -> Row:
        started = time.perf_counter()
        self.epoch += 1
        with torch.random.fork_rng():
            torch.manual_seed(_chance(self.seed, self.phase.frostline, self.epoch))
            train_loss, train_accuracy = self._pass()
        valid, loss = self.evaluate()
        if loss < self.best:
            self.best, self.stale, self._best_state = loss, 0, self._state()
        else:
            self.stale += 1
        lr = max(group["lr"] for group in self.optimizer.param_groups)
        seconds = time.perf_counter() - started
        return Row(self.epoch, lr, train_loss, train_accuracy, loss, valid["accuracy"], seconds, valid)

    def _pass(self) -> tuple[float, float]:
        """One epoch of steps; mean loss and accuracy over the images."""
        self.computed.train()
        if self.keep_statistics:
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
        factor = scheduled(self.phase.schedule, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group["highest_lr"] * factor

    def _state(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.upper.state_dict().items()}

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
