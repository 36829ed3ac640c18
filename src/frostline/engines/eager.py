"""Torch itself, one operation after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from frostline import terminal
from frostline.engines.checking import fault
from frostline.engines.fused import fuse_activations
from frostline.errors import reason
from frostline.machine import Machine, exact, to_device
from frostline.network.folding import fold_batchnorm
from frostline.network.part import Part
from frostline.preprocessing import Preprocessing, normalised

Run = Callable[[np.ndarray], list[Tensor]]  # (B, size, size, 3) of uint8 -> rows as stored, for each output
Forward = Callable[[Tensor], Tensor]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PIXELS = 8 * 224 * 224  # per step on the processor: the largest maps of common networks then fit into its cache
MOST_IMAGES = 64
DEVICE_IMAGES = 128  # per step on an accelerator


def step(frozen: Part, machine: Machine) -> int:
    """The number of images per step that is fast."""
    if machine.device.type != "cpu":
        return DEVICE_IMAGES
    return max(1, min(MOST_IMAGES, PIXELS // frozen.preprocessing.size**2))


def cast(frozen: Part, machine: Machine) -> Run:
    """The part folded, on the CPU also fused, and entirely in the machine's precision."""
    dtype = DTYPES[machine.precision]
    network = fold_batchnorm(frozen)
    to_device(network, machine.device, dtype)
    if machine.device.type == "cpu":
        network = fuse_activations(network)
    return _runner(network, frozen.preprocessing, machine.device, dtype, dtype)


def forward_from(middle: Part, machine: Machine) -> Forward:
    """A function from activations (B, …) at one cut to those at a higher one, float32 on the CPU; as fast as `cast`.

    The first rows check it: if its numbers differ from the part's own, torch's autocast is used instead.
    """
    chosen: list[Forward] = []

    def run(x: Tensor) -> Tensor:
        if not chosen:
            chosen.append(_trusted(middle, machine, x[:2]))
        return chosen[0](x)

    return run


def _trusted(middle: Part, machine: Machine, sample: Tensor) -> Forward:
    dtype, device = DTYPES[machine.precision], machine.device
    usual = _forward(to_device(fold_batchnorm(middle), device), device, torch.float32, machine.autocast)
    try:
        network = fold_batchnorm(middle)
        to_device(network, device, dtype)
        fast = _forward(fuse_activations(network) if device.type == "cpu" else network, device, dtype)
        right = _forward(middle, _home(middle, device), torch.float32)(sample)
        why = fault([fast(sample)], [right], lambda: [usual(sample)], machine.precision)
    except Exception as error:
        why = reason(error)
    if why is None:
        return fast
    terminal.say(f"not using torch's fast path between the cuts: {why}")
    return usual


def _forward(
    network: nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    inside: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> Forward:
    def run(x: Tensor) -> Tensor:
        with torch.inference_mode(), exact(device), inside():
            rows: Tensor = network(x.to(device, dtype)).float().cpu()
        return rows.clone()  # training needs tensors from outside inference mode

    return run


def plain(frozen: Part, machine: Machine) -> Run:
    """The part folded, in mixed precision with torch's autocast."""
    device = machine.device
    try:
        network = fold_batchnorm(frozen)
    except Exception:  # a layer may hold an object that cannot be copied, such as a lock
        network = frozen
    if network is not frozen:
        to_device(network, device)
    else:  # without a copy, the network stays on its device
        device = _home(frozen, device)
    run = _runner(network, frozen.preprocessing, device, torch.float32, DTYPES[machine.precision])

    def mixed(pictures: np.ndarray) -> list[Tensor]:
        with machine.autocast():
            return run(pictures)

    return mixed


def reference(frozen: Part, machine: Machine, pictures: np.ndarray) -> list[Tensor]:
    """The rows of the unchanged part in fp32, on its own device."""
    device = _home(frozen, machine.device)
    return _runner(frozen, frozen.preprocessing, device, torch.float32, torch.float32)(pictures)


def _home(part: Part, otherwise: torch.device) -> torch.device:
    """The device of a part."""
    return next((parameter.device for parameter in part.parameters()), otherwise)


def _runner(
    network: nn.Module, preprocessing: Preprocessing, device: torch.device, inside: torch.dtype, outside: torch.dtype
) -> Run:
    def run(pictures: np.ndarray) -> list[Tensor]:
        with torch.inference_mode(), exact(device):
            images = torch.from_numpy(pictures)
            if device.type == "cuda":
                images = images.pin_memory().to(device, non_blocking=True)
            outputs = network(normalised(images.to(device).permute(0, 3, 1, 2), preprocessing).to(inside))
            return as_rows(outputs, outside)

    return run


def as_rows(outputs: Tensor | tuple[Tensor, ...], dtype: torch.dtype) -> list[Tensor]:
    """Outputs in stored form: maps with channels last, on the processor."""
    rows = [output.to(dtype) for output in (outputs if isinstance(outputs, tuple) else (outputs,))]
    return [(row.movedim(1, -1) if row.ndim == 4 else row).contiguous().cpu() for row in rows]


class Whole(nn.Module):
    """A folded part with its normalisation inside: (B, size, size, 3) of uint8 -> the part's outputs in fp32."""

    def __init__(self, frozen: Part) -> None:
        super().__init__()
        self.network = fold_batchnorm(frozen)
        self.mean = 255 * torch.tensor(frozen.preprocessing.mean)
        self.std = 255 * torch.tensor(frozen.preprocessing.std)

    def forward(self, pictures: Tensor) -> Tensor | tuple[Tensor, ...]:
        images = (pictures.float() - self.mean) / self.std  # in operations that every converter knows
        outputs: Tensor | tuple[Tensor, ...] = self.network(images.permute(0, 3, 1, 2))
        return outputs


def padded(pictures: np.ndarray, images: int) -> np.ndarray:
    """Exactly `images` pictures, for engines with a fixed batch size; the surplus is blank."""
    if len(pictures) == images:
        return pictures
    return np.concatenate([pictures, np.zeros((images - len(pictures), *pictures.shape[1:]), np.uint8)])
