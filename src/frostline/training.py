"""Training above the frostline, as an iterator: one row an epoch.

    for row in training:
        print(row.epoch, row.valid_loss)
        if training.stale == 3:
            break
    training.restore_best()

There are no callbacks: what happens after an epoch is written in the loop, and stopping early is `break`.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from frostline import terminal
from frostline.activations import Activations
from frostline.errors import DivergedError
from frostline.network import Network
from frostline.plan import Phase
from frostline.tasks import classification

WARM_UP = 0.1  # of all steps: the learning rate rises linearly, then falls as a cosine to zero
EVALUATION_ROWS = 128


@dataclass(frozen=True)
class Row:
    """One epoch: losses in nats, accuracies 0 … 1; training figures are running means while the weights move."""

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    valid_loss: float
    valid_accuracy: float
    seconds: float


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


@torch.inference_mode()
def outputs(upper: nn.Module, inputs: Activations, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Logits (N, classes) of all rows in evaluation mode, and their targets (N,); both on the CPU."""
    was_training = upper.training
    upper.eval()
    pairs = [(upper(x.to(device)).float().cpu(), y) for x, y in inputs.batches(EVALUATION_ROWS)]
    upper.train(was_training)
    return torch.cat([logits for logits, _ in pairs]), torch.cat([targets for _, targets in pairs])


def _chance(*parts: object) -> int:
    """A seed decided by the parts alone, so that any epoch can be repeated without those before it."""
    text = " ".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")


class Training:
    """Trains what lies above the frostline on stored activations.

    network, upper: as `network.cut(phase.frostline)` left them. train, valid: activations of the lower part.
    keep_statistics: leave the running statistics of BatchNorm as pretrained; small data sets would only spoil them.
    carried: optimizer state of parameters that trained before (`previous.optimizer.state`).
    loss: (logits, targets) -> scalar.

    best, stale: the least validation loss so far (the starting weights count), and the epochs since then.
    """

    def __init__(
        self,
        network: Network,
        upper: nn.Module,
        train: Activations,
        valid: Activations,
        phase: Phase,
        *,
        seed: int = 0,
        keep_statistics: bool = True,
        carried: Mapping[Tensor, Any] | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] = classification.loss,
    ) -> None:
        self.upper, self.train, self.valid, self.phase, self.seed = upper, train, valid, phase, seed
        self.keep_statistics, self.loss = keep_statistics, loss
        self.device = next(upper.parameters()).device
        groups = parameter_groups(network, phase.lr, phase.lr_decay, phase.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=phase.lr)
        for group in self.optimizer.param_groups:
            group["highest_lr"] = group["lr"]
            for parameter in group["params"]:
                if carried and parameter in carried:
                    self.optimizer.state[parameter] = carried[parameter]
        self.epoch = 0
        self.stale = 0
        self.start = self.evaluate()
        self.best = self.start["loss"]
        self._best_state = self._state()

    def evaluate(self) -> dict[str, float]:
        """Accuracy and loss on the validation activations."""
        return classification.measure(*outputs(self.upper, self.valid, self.device))

    def __iter__(self) -> Iterator[Row]:
        while self.epoch < self.phase.epochs:
            yield self._next()

    def _next(self) -> Row:
        started = time.perf_counter()
        self.epoch += 1
        with torch.random.fork_rng():
            torch.manual_seed(_chance(self.seed, self.phase.frostline, self.epoch))
            train_loss, train_accuracy = self._pass()
        valid = self.evaluate()
        if valid["loss"] < self.best:
            self.best, self.stale, self._best_state = valid["loss"], 0, self._state()
        else:
            self.stale += 1
        lr = max(group["lr"] for group in self.optimizer.param_groups)
        seconds = time.perf_counter() - started
        return Row(self.epoch, lr, train_loss, train_accuracy, valid["loss"], valid["accuracy"], seconds)

    def _pass(self) -> tuple[float, float]:
        """One epoch of steps; mean loss and accuracy over the images."""
        self.upper.train()
        if self.keep_statistics:
            for module in self.upper.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        images = torch.randperm(len(self.train.images))
        batches = list(images.split(self.phase.batch_size))
        if len(batches) > 1 and len(batches[-1]) == 1:  # BatchNorm has no statistics of one image
            batches[-2:] = [torch.cat(batches[-2:])]
        total_loss, correct = 0.0, 0
        label = f"epoch {self.epoch}/{self.phase.epochs}"
        with terminal.progress(label, len(images), "images") as advance:
            for i, batch in enumerate(batches):
                rows = batch * self.train.views + (batch + self.epoch) % self.train.views
                self._schedule((self.epoch - 1 + i / len(batches)) / self.phase.epochs)
                value, logits, targets = self._step(rows)
                total_loss += value * len(batch)
                correct += int((logits.argmax(1) == targets).sum())
                advance(len(batch))
        return total_loss / len(images), correct / len(images)

    def _step(self, rows: Tensor) -> tuple[float, Tensor, Tensor]:
        targets = self.train.targets(rows).to(self.device)
        logits = self.upper(self.train.fetch(rows).to(self.device))
        loss = self.loss(logits, targets)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(
                f"the training loss became {value} in epoch {self.epoch} above {self.phase.frostline!r}; "
                f"try a smaller learning rate, as in --lr {self.phase.lr / 10:g}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return value, logits.detach(), targets

    def _schedule(self, progress: float) -> None:
        """Set the learning rates for a point (0 … 1) of the phase."""
        warm = min(1.0, (progress + 0.01) / WARM_UP)
        factor = warm * 0.5 * (1 + math.cos(math.pi * max(0.0, progress - WARM_UP) / (1 - WARM_UP)))
        for group in self.optimizer.param_groups:
            group["lr"] = group["highest_lr"] * factor

    def _state(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.upper.state_dict().items()}

    def restore_best(self) -> None:
        """Put back the weights of the least validation loss: those from before the phase if it only did harm."""
        self.upper.load_state_dict(self._best_state)
        self.upper.eval()
