"""Random numbers of a training: drawn from states of its own, so that it can stop at any step and go on."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

States = list[Tensor]  # of the CPU's generator, and of the device's


def seed_of(*parts: object) -> int:
    """A seed that depends only on the parts, so that any epoch can be repeated without those before it."""
    text = " ".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")


def seeded(seed: int, device: torch.device) -> States:
    """The states of the generators right after seeding them."""
    return [torch.Generator(each.device).manual_seed(seed).get_state() for each in _generators(device)]


@contextlib.contextmanager
def drawn_from(states: States, device: torch.device) -> Iterator[None]:
    """Draw all random numbers inside from these states, and leave the next ones in them; others' are not disturbed.

    `torch.manual_seed` would seed, and `fork_rng()` initialise, every accelerator of the machine.
    """
    generators = _generators(device)
    others = [generator.get_state() for generator in generators]
    try:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        yield
        states[:] = [generator.get_state() for generator in generators]
    finally:
        for generator, state in zip(generators, others, strict=True):
            generator.set_state(state)


def _generators(device: torch.device) -> list[torch.Generator]:
    generators = [torch.default_generator]
    if device.type == "cuda":
        torch.cuda.init()
        number = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[number])
    elif device.type == "mps":
        generators.append(torch.mps._get_default_mps_generator())
    return generators
