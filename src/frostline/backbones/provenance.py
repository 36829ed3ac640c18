"""The origin of weights, their licence and their hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frostline.network.hashing import is_plain_tensor

NOT_STATED = "unknown"


@dataclass(frozen=True)
class Provenance:
    """The provenance of a network's weights. The defaults describe a random initialisation.

    weights: their origin.
    licence: as stated by their source, "unknown" if it states none, "none" for random weights.
    sha256: in hexadecimal, of the loaded file: that of a pip package, in a hub's cache, or your own.
        Without a file, of the tensors' bytes in the order of the state dict. None for random weights.
    """

    weights: str = "none"
    licence: str = "none"
    sha256: str | None = None


def tensors_sha256(model: nn.Module) -> str | None:
    """The SHA-256 of a network's tensors, one after the other; None if one is not a plain tensor."""
    whole = hashlib.sha256()
    for value in model.state_dict().values():
        if not isinstance(value, Tensor) or not is_plain_tensor(value):
            return None
        plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        whole.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()
