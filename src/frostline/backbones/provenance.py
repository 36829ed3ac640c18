"""Where weights are from, under which licence they are given, and which bytes they are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frostline.network.hashing import is_plain_tensor

NOT_STATED = "unknown"


@dataclass(frozen=True)
class Provenance:
    """What is known of a network's weights. Without arguments those of a random initialisation.

    weights: where they are from.
    licence: as their source states it, "unknown" where it does not, "none" of random weights.
    sha256: in hexadecimal, of the file that was loaded: that of a pip package, in a hub's cache, or somebody's own.
        Where there is no file, of the tensors' bytes in the order of the state dict. None of random weights.
    """

    weights: str = "none"
    licence: str = "none"
    sha256: str | None = None


def tensors_sha256(model: nn.Module) -> str | None:
    """The SHA-256 of a network's tensors, one after the other; None where one is more, or less, than its numbers."""
    whole = hashlib.sha256()
    for value in model.state_dict().values():
        if not isinstance(value, Tensor) or not is_plain_tensor(value):
            return None
        plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        whole.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()
