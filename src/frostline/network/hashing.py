"""Plain values and tensors as bytes, for digests."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

BY_NAME = (torch.dtype, torch.layout, torch.memory_format, np.dtype)
TENSORS = (Tensor, nn.Parameter, nn.Buffer)


def hashed(*pieces: bytes) -> bytes:
    """A digest of pieces; the length of each is included, so that their boundaries matter."""
    whole = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        whole.update(len(piece).to_bytes(8, "little"))
        whole.update(piece)
    return whole.digest()


def text_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Step:
    """The result of a graph operation, as an argument of another one."""

    number: int


def plain_bytes(value: object) -> bytes | None:
    """A plain value as bytes; None for any other value."""
    kind = type(value)
    if kind in (int, bool):
        return text_bytes(f"{kind.__name__} {value:x}")
    if isinstance(value, float) and kind is float:
        return text_bytes(f"float {value.hex()}")
    if isinstance(value, complex) and kind is complex:
        return text_bytes(f"complex {value.real.hex()} {value.imag.hex()}")
    if isinstance(value, str) and kind is str:
        return b"str " + text_bytes(value)
    if isinstance(value, (bytes, bytearray)) and kind in (bytes, bytearray):
        return text_bytes(kind.__name__) + b" " + value
    if value is None or value is Ellipsis or value is NotImplemented or isinstance(value, BY_NAME):
        return text_bytes(f"name {value!r}")
    if isinstance(value, torch.device):
        return b"device"
    return text_bytes(f"step {value.number}") if isinstance(value, Step) else None


def is_plain_tensor(tensor: Tensor) -> bool:
    """Whether a tensor has nothing but its numbers."""
    strided = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta
    return type(tensor) in TENSORS and strided


def shape_bytes(tensor: Tensor) -> bytes:
    return text_bytes(f"{tensor.dtype} {tuple(tensor.shape)}")


def tensor_digest(tensor: Tensor) -> bytes:
    value = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    whole = hashlib.blake2b(b"tensor " + shape_bytes(tensor), digest_size=16)
    whole.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return whole.digest()
