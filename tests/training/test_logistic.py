"""The loss of a logistic head and its gradient are those that autograd finds, in pieces of any size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from frostline.training import logistic
from frostline.training.logistic import loss_and_gradient
from frostline.training.probe import solve
from regressions import drawn, features


@settings(deadline=None)
@given(
    seed=st.integers(0, 9),
    count=st.integers(1, 40),
    classes=st.integers(2, 5),
    size=st.integers(1, 50),
    several=st.booleans(),
    weighted=st.booleans(),
)
def test_the_gradient_is_that_of_autograd(seed, count, classes, size, several, weighted):
    chance = torch.Generator().manual_seed(seed)
    x, mean = torch.randn(count, 6, generator=chance) * 3 + 5, torch.full((6,), 5.0)
    y = torch.randint(0, classes, (count,), generator=chance)
    if several:
        y = (torch.rand(count, classes, generator=chance) < 0.4).float()
    class_weight = torch.rand(classes, generator=chance) + 0.5 if weighted else None
    weight, bias = torch.randn(classes, 6, generator=chance), torch.randn(classes, generator=chance)
    for given_ in (weight, bias):
        given_.requires_grad_()
    logits = functional.linear(x - mean, weight, bias)
    if several:
        loss = functional.binary_cross_entropy_with_logits(logits, y, pos_weight=class_weight, reduction="sum")
    else:
        loss = functional.cross_entropy(logits, y, class_weight, reduction="sum")
    loss.backward()
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(logistic, "MOST_LOGITS", size * classes)
        blocks = lambda: zip(x.split(17), y.split(17), strict=True)  # noqa: E731
        found = loss_and_gradient(blocks, mean, weight, bias, class_weight)
    assert float(found[0]) == pytest.approx(loss.item(), rel=1e-4)
    expected = torch.cat([weight.grad, bias.grad[:, None]], 1)
    torch.testing.assert_close(found[1:].view(classes, 7), expected.double(), rtol=1e-4, atol=1e-3)


def test_R24_the_logits_of_a_block_are_there_piece_by_piece(monkeypatch):
    x, y = drawn(0, 200, 12, 1)
    rows, sizes, real = features(x, y), [], logistic.loss_and_residual
    whole = solve(rows, 3)

    def loss(logits, *others):
        sizes.append(logits.numel())
        return real(logits, *others)

    monkeypatch.setattr(logistic, "loss_and_residual", loss)
    monkeypatch.setattr(logistic, "MOST_LOGITS", 7 * 3)
    pieces = solve(rows, 3)
    assert max(sizes) == 21
    assert pieces.c == whole.c
    torch.testing.assert_close(pieces.weight, whole.weight, rtol=1e-2, atol=1e-3)
