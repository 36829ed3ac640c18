"""Metrics in one line."""

from __future__ import annotations

from typing import Any

SHOWN = {"mean_iou": "mean IoU", "mean_ap": "mean AP", "f1": "F1"}  # what people call these figures


def summary(measured: dict[str, Any]) -> str:
    """Metrics in one line."""
    low, high = measured["interval"]
    more = "".join(f"{name} {measured[key]:.4f}, " for key, name in SHOWN.items() if measured.get(key) is not None)
    return (
        f"{more}accuracy {measured['accuracy']:.4f} (95 %: {low:.4f} … {high:.4f}), "
        f"log-loss {measured['loss']:.4f}, n = {measured['n']}"
    )
