from __future__ import annotations

import pytest
import torch
from torch import nn

from conftest import small_model
from frostline.errors import UsageError
from frostline.network.heads import final_layers, new_head, pooled_head
from frostline.network.tracing import trace

IMAGE = (3, 32, 32)


@pytest.mark.parametrize(
    ("old", "shape"),
    [
        (nn.Linear(7, 5), (2, 7)),
        (nn.Linear(7, 5, bias=False), (2, 7)),
        (nn.Conv2d(7, 5, 1), (2, 7, 4, 4)),
        (nn.Conv2d(7, 5, 3, 2, "valid"), (2, 7, 9, 9)),
        (nn.Conv2d(7, 5, (3, 1), padding=(1, 0)), (2, 7, 4, 4)),
        (nn.Linear(7, 5, dtype=torch.float64), (2, 7)),
    ],
)
def test_a_new_head_takes_what_the_old_one_took(old, shape):
    new = new_head(old, 3)
    x = torch.randn(shape, dtype=old.weight.dtype)
    assert new(x).shape == (2, 3, *old(x).shape[2:])
    assert new(x).dtype == x.dtype


@pytest.mark.parametrize("old", [nn.Conv2d(4, 8, 1, groups=2), nn.Bilinear(2, 2, 2), nn.LayerNorm(3)])
def test_a_layer_that_is_no_head_is_refused(old):
    with pytest.raises(UsageError, match=f"last layer is a {type(old).__name__}; .* only replace a Linear or Conv2d"):
        new_head(old, 3)


def test_a_pooled_head_takes_the_maximum_over_positions():
    head = pooled_head((4, 3, 3), 2)
    x = torch.randn(5, 4 * 3 * 3)
    expected = head[-1](x.view(5, 4, 9).amax(2))
    torch.testing.assert_close(head(x), expected)
    assert isinstance(pooled_head((4,), 2), nn.Linear)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.mean((2, 3))
        return (self.left(x) + self.right(x)).softmax(1)


@pytest.mark.parametrize(("model", "heads"), [(small_model(), {"head"}), (TwoHeads().eval(), {"left", "right"})])
def test_final_layers_are_those_that_make_the_output(model, heads):
    assert set(final_layers(model, trace(model, IMAGE))) == heads


class Weighted(nn.Module):
    def __init__(self, weighted: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.weighted = weighted

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) * self.scale if self.weighted else x.mean((2, 3))


@pytest.mark.parametrize(
    ("weighted", "told"), [(True, "depends directly on 'scale'"), (False, "comes from no layer with parameters")]
)
def test_a_network_without_a_final_layer_is_refused(weighted, told):
    model = Weighted(weighted).eval()
    with pytest.raises(UsageError, match=f"no final layer to replace: .*{told}"):
        final_layers(model, trace(model, IMAGE))
