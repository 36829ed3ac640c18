"""A batch that several processes compute: which part is whose, and how logits, gradients and statistics come together.

The loss is that of the whole batch, whatever function it is: each process computes the logits of its part, and all of
them gather those of the others. The gradient of that loss by its own logits gives each process its share of the
gradients; torch's DistributedDataParallel adds them up. BatchNorm that updates its statistics takes those of the whole
batch. So the steps of any number of processes are equal up to the order of sums.

Every process holds all weights of the part that trains, and the state of its optimizer: those of image models fit one
device, so they are not sharded (FSDP). A batch of fewer images than processes is computed by each of them.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from frostline.distributed import Group, answering
from frostline.errors import MachineError
from frostline.network.tracing import in_mode


@dataclass(frozen=True, eq=False)
class Together:
    """The part that trains, as one of several processes has it.

    model: the part, whose gradients are added up. judges: whether all processes have the validation rows, too.
    """

    group: Group
    model: nn.Module
    judges: bool = False

    def splits(self, count: int) -> bool:
        """Whether a batch of `count` images is split."""
        return count >= self.group.size

    def part(self, rows: Tensor) -> Tensor:
        """This process's part of something with one entry per image of a batch."""
        return rows.tensor_split(self.group.size)[self.group.rank] if self.splits(len(rows)) else rows

    def gathered(self, logits: Tensor, count: int) -> Tensor:
        """The logits of a whole batch of `count` images, from those of the part (B, …); gradients reach only these."""
        if not self.splits(count):
            return logits
        sizes = [len(part) for part in torch.arange(count).tensor_split(self.group.size)]
        own = logits.new_zeros(max(sizes), *logits.shape[1:])
        own[: len(logits)] = logits.detach()
        parts = [torch.empty_like(own) for _ in sizes]
        torch.distributed.all_gather(parts, own, group=self.group.steps)
        parts[self.group.rank] = logits
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def backward(self, loss: Tensor, count: int) -> None:
        """The gradients of the loss of a batch; DistributedDataParallel takes the mean over the processes."""
        with warnings.catch_warnings():  # a convolution of 1 × 1 has two memory layouts that are the same
            warnings.filterwarnings("ignore", "Grad strides do not match", UserWarning)
            (loss * self.group.size if self.splits(count) else loss).backward()

    def take_buffers(self) -> None:
        """Take the buffers of rank 0, such as running averages of another layer than BatchNorm."""
        for buffer in self.model.buffers():
            if buffer.is_floating_point():
                value = buffer.contiguous()
                torch.distributed.broadcast(value, 0, group=self.group.steps)
                buffer.copy_(value)

    def statistics(self, count: int) -> contextlib.AbstractContextManager[Any]:
        """BatchNorm takes the statistics of a whole batch of `count` images inside."""
        return Synchronised(self.group) if self.splits(count) else contextlib.nullcontext()

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Raises MachineError inside if another process is gone; then the running statistics are those of before."""
        before = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        try:
            with answering(self.group):
                yield
        except MachineError:
            for buffer, value in before:
                buffer.copy_(value)
            raise


def joined(computed: nn.Module, group: Group, *, unused: bool, judges: bool) -> Together:
    """The part that trains in all processes, which must call this at the same time; they take the weights of rank 0.

    unused: whether some parameters may get no gradient in a step. judges: as in `Together`.
    """
    from torch.nn.parallel import DistributedDataParallel

    with warnings.catch_warnings():  # newer versions of torch call broadcast_buffers by another name
        warnings.simplefilter("ignore", FutureWarning)
        model = DistributedDataParallel(
            computed, process_group=group.steps, broadcast_buffers=False, find_unused_parameters=unused
        )
    return Together(group, model, judges)


def leaves_out_parameters(computed: nn.Module, sample: Tensor) -> bool:
    """Whether some parameters that train do not take part in the outputs for a sample (B, …).

    To look for them at every step would cost time, and DistributedDataParallel waits for all others.
    """
    trained = [parameter for parameter in computed.parameters() if parameter.requires_grad]
    with in_mode(computed, training=False):
        outputs = computed(sample)
    return any(gradient is None for gradient in torch.autograd.grad(outputs.sum(), trained, allow_unused=True))


class Synchronised(TorchFunctionMode):
    """BatchNorm in training with the statistics of all processes' parts of a batch, on any device and in any layer.

    torch's SyncBatchNorm needs a GPU, and would replace layers that belong to the network.
    """

    def __init__(self, group: Group) -> None:
        super().__init__()
        self.group = group

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        arguments: tuple[Any, ...] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is functional.batch_norm:
            return _batch_norm(self.group, *arguments, **(options or {}))
        return function(*arguments, **(options or {}))


def _batch_norm(
    group: Group,
    x: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`functional.batch_norm` of the whole batch, for this process's part x (B, C, …).

    Sums are taken around the running mean, so that a variance far smaller than the mean keeps its digits.
    """
    if not training:
        return functional.batch_norm(x, mean, variance, weight, bias, training, momentum, eps)
    shape = (1, -1, *[1] * (x.ndim - 2))
    axes = [0, *range(2, x.ndim)]
    around = x.new_zeros(x.shape[1], dtype=torch.float32) if mean is None else mean.clone()
    centred = x.float() - around.view(shape)
    count = centred.new_full((1,), x.numel() / x.shape[1])
    sums: Tensor = _Sum.apply(torch.cat([centred.sum(axes), centred.square().sum(axes), count]), group)
    first, second, total = sums.split([x.shape[1], x.shape[1], 1])
    first = first / total
    spread = (second / total - first.square()).clamp(min=0)
    if mean is not None and variance is not None:
        with torch.no_grad():
            mean.lerp_((first + around).to(mean), momentum)
            variance.lerp_((spread * total / (total - 1)).to(variance), momentum)
    scale: Tensor = torch.rsqrt(spread + eps) * (1 if weight is None else weight)
    offset = -first * scale + (0 if bias is None else bias)
    result: Tensor = centred * scale.view(shape) + offset.view(shape)
    return result.to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes, and of its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return summed(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return summed(gradient, ctx.group), None


def summed(x: Tensor, group: Group) -> Tensor:
    """The sum of a tensor over all processes, which call this at the same time."""
    result: Tensor = x.clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(result, group=group.steps)
    return result
