from __future__ import annotations

import pytest
import torch
from torch import nn

from conftest import small_model
from frostline.report.attention import glowing, heat_maps


class Corner(nn.Module):
    """Class 1 is what is bright in the upper left quarter; no other place matters."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(8)

    def forward(self, x):
        places = self.pool(x)  # (B, 1, 4, 4)
        corner = places[:, 0, :2, :2].sum((1, 2))
        return torch.stack([-corner, corner], 1)


def test_what_matters_is_where_the_network_looks():
    picture = torch.zeros(1, 1, 32, 32)
    picture[..., :8, :8] = 1
    heat = heat_maps(Corner(), picture, torch.tensor([1]))
    assert heat.shape == (1, 4, 4)
    assert heat[0].flatten().argmax() == 0
    assert float(heat.max()) == 1


def test_frozen_networks_are_explained_and_left_as_they_were():
    model = small_model().eval().requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    heat = heat_maps(model, torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 2]))
    assert heat.ndim == 3
    assert bool(((heat >= 0) & (heat <= 1)).all())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(not module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("model", [nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4)), nn.Conv2d(3, 4, 3)])
def test_what_has_no_places_or_is_no_classifier_has_no_map(model):
    assert heat_maps(model, torch.randn(2, 3, 8, 8), torch.tensor([0, 1])) is None


def test_a_picture_glows_where_it_matters():
    picture = torch.full((8, 8, 3), 200, dtype=torch.uint8)
    glow = glowing(picture, torch.tensor([[1.0, 0.0], [0.0, 0.0]])).int()
    assert glow.shape == (8, 8, 3)
    assert glow[0, 0, 0] - glow[0, 0, 2] > 100  # yellow
    assert len(set(glow[7, 7].tolist())) == 1  # grey


@pytest.mark.parametrize("brightness", [0, 4, 128, 240])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_matters_is_seen_on_dark_and_on_bright_photographs(brightness, channels):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 12, (32, 32, channels), generator=generator)
    picture = (brightness + noise).clamp(0, 255).byte()
    glow = glowing(picture, torch.tensor([[1.0, 0.0], [0.0, 0.0]])).float()
    place, elsewhere = glow[:6, :6].mean((0, 1)), glow[-6:, -6:].mean((0, 1))
    assert place[0] > 180
    assert place[0] - place[2] > 90
    assert float(elsewhere.max() - elsewhere.min()) < 1
    assert float(glow[-6:, -6:].max() - glow[-6:, -6:].min()) > 60  # also a dark photograph is seen
