"""Whether something that computes a frozen part gives the numbers of the part itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

TOLERANCES = {"fp32": 1e-3, "bf16": 0.06}  # of the outputs' norm, against fp32 without any change


def difference(computed: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """The largest distance of any output, relative to its norm; infinite where one is not finite."""
    pairs = [(ours.float(), theirs.float()) for ours, theirs in zip(computed, right, strict=True)]
    errors = [float((ours - theirs).norm() / theirs.norm().clamp(min=1e-12)) for ours, theirs in pairs]
    return max(error if error == error else float("inf") for error in errors)


def fault(
    computed: Sequence[Tensor], right: Sequence[Tensor], usual: Callable[[], Sequence[Tensor]], precision: str
) -> str | None:
    """Why numbers are not to be used; None for good ones.

    right: the part's own in fp32. usual: gives torch's in this precision; where a network loses more than the tolerance
    there, half as much again is allowed.
    """
    error = difference(computed, right)
    if error <= TOLERANCES[precision] or error <= 1.5 * difference(usual(), right):
        return None
    return f"its numbers differ by {error:.1%}"
