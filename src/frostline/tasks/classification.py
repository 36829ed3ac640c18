"""One label an image: cross-entropy, accuracy."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits (B, classes) against class numbers (B,)."""
    return functional.cross_entropy(logits, targets)


def measure(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Accuracy (0 … 1) and mean cross-entropy in nats."""
    correct = int((logits.argmax(1) == targets).sum())
    return {"accuracy": correct / max(1, len(targets)), "loss": float(loss(logits, targets))}
