"""Checks that an engine gives the same numbers as the frozen part itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

TOLERANCES = {"fp32": 1e-3, "bf16": 0.06}  # relative to the outputs' norm, against the unchanged part in fp32


def difference(computed: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """The largest distance of any output, relative to its norm; infinite if one is not finite, 0 without outputs."""
    pairs = [(ours.float(), theirs.float()) for ours, theirs in zip(computed, right, strict=True)]
    errors = [float((ours - theirs).norm() / theirs.norm().clamp(min=1e-12)) for ours, theirs in pairs]
    return max((error if error == error else float("inf") for error in errors), default=0.0)


def fault(
    computed: Sequence[Tensor], right: Sequence[Tensor], usual: Callable[[], Sequence[Tensor]], precision: str
) -> str | None:
    """Why an engine's outputs are wrong; None for correct ones.

    right: the part's own outputs in fp32. usual: gives torch's outputs in this precision; if these already exceed the
    tolerance, 1.5 times their error is allowed.
    """
    error = difference(computed, right)
    if error <= TOLERANCES[precision] or error <= 1.5 * difference(usual(), right):
        return None
    return f"its numbers differ by {error:.1%}"
