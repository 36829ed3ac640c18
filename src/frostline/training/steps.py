"""One step: logits, loss and gradients of a batch, in a process of its own or in each of several."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from frostline.plan import Phase
from frostline.tasks import Loss
from frostline.training.precision import mixed
from frostline.training.together import Together


@dataclass(frozen=True, eq=False)
class Mix:
    """How each image of a batch is mixed with another one (Zhang et al. 2018). order: (B,), the number of the other."""

    share: float
    order: Tensor


def drawn_mix(phase: Phase, count: int, device: torch.device) -> Mix | None:
    """The mix of a batch of `count` images; None if the phase mixes none."""
    if not phase.mixup or count < 2:
        return None
    order = torch.randperm(count, device=device)
    return Mix(float(torch.distributions.Beta(phase.mixup, phase.mixup).sample()), order)


@dataclass(eq=False)
class Stepper:
    """Takes the steps of a phase.

    computed: the part that trains. optimizer: of its parameters. loss: (logits, targets) -> scalar.
    in_fp32: the names of the layers that stay in fp32 where the others compute in bf16; None for fp32 everywhere.
    together: the part in several processes, while they take steps.
    """

    computed: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Loss
    phase: Phase
    device: torch.device
    in_fp32: frozenset[str] | None = None
    together: Together | None = None
    _modes: list[tuple[nn.Module, bool]] = field(default_factory=list)  # of every module while it trains

    def inside(self) -> contextlib.AbstractContextManager[None]:
        """The context that the network runs in."""
        return contextlib.nullcontext() if self.in_fp32 is None else mixed(self.computed, self.in_fp32, self.device)

    def gradients(self, inputs: Tensor, targets: Tensor, mix: Mix | None = None) -> tuple[Tensor, Tensor]:
        """The logits of a batch and its loss, whose gradients the parameters get.

        inputs: what `read` says of the batch. targets: of the whole batch.
        """
        self._train_mode()
        together, count = self.together, len(targets)
        if mix is not None:
            inputs = mix.share * inputs + (1 - mix.share) * inputs[mix.order]
            inputs = inputs if together is None else together.part(inputs)
        logits = self._logits(inputs) if together is None else self._together(together, inputs, count)
        loss = self.loss(logits, targets)
        if mix is not None:
            loss = mix.share * loss + (1 - mix.share) * self.loss(logits, targets[mix.order])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward() if together is None else together.backward(loss, count)
        return logits, loss

    def _logits(self, inputs: Tensor) -> Tensor:
        with self.inside():
            logits: Tensor = self.computed(inputs)
        return logits.float()

    def _together(self, together: Together, inputs: Tensor, count: int) -> Tensor:
        batchwise = any(
            isinstance(each, _BatchNorm) and (mode or each.running_mean is None) for each, mode in self._modes
        )
        with together.statistics(count) if batchwise else contextlib.nullcontext(), self.inside():
            logits: Tensor = together.model(inputs)
        return together.gathered(logits.float(), count)

    def read(self, rows: Tensor) -> Tensor:
        """The rows of a batch that this process reads; an image may be mixed with one of another process's part."""
        return rows if self.together is None or self.phase.mixup else self.together.part(rows)

    def answering(self) -> contextlib.AbstractContextManager[None]:
        """Raises MachineError inside if another process that takes part is gone."""
        return contextlib.nullcontext() if self.together is None else self.together.answering()

    def update(self) -> None:
        """Move the parameters by their gradients."""
        if self.phase.clip:
            nn.utils.clip_grad_norm_(self.parameters(), self.phase.clip)
        self.optimizer.step()

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def set_lr(self, factor: float) -> None:
        """Set the learning rates, as a share of the highest."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["highest_lr"] * factor

    def _train_mode(self) -> None:
        """Training mode, but for BatchNorms with frozen statistics; what ran between two steps may have changed it."""
        if self._modes and all(module.training is mode for module, mode in self._modes):
            return
        self.computed.train()
        if self.phase.batchnorm != "updated":
            for module in self.computed.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        self._modes = [(module, module.training) for module in self.computed.modules()]
