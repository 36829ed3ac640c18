from __future__ import annotations

import torch

from frostline.checks.neighbours import nearest
from frostline.checks.outliers import strange


def test_what_is_far_from_all_others_is_strange():
    torch.manual_seed(0)
    features = torch.randn(4, 32)[torch.arange(200) % 4] + 0.2 * torch.randn(200, 32)
    features[13] = 3 * torch.randn(32)
    found = strange(nearest(features)[0])
    assert [row for row, _ in found] == [13]
    assert found[0][1] > 3


def test_noise_has_no_outliers():
    torch.manual_seed(0)
    assert len(strange(nearest(torch.randn(500, 32))[0])) <= 2


def test_of_so_few_images_none_is_usual():
    torch.manual_seed(0)
    assert strange(nearest(torch.randn(19, 4))[0]) == []
    assert strange(torch.empty(0, 0)) == []
