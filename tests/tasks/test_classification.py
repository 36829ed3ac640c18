from __future__ import annotations

import torch

from frostline.tasks.classification import loss, measure


def test_accuracy_counts_images_and_loss_is_in_nats():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]))
    measured = measure(logits, torch.tensor([0, 1, 0]))
    assert measured["accuracy"] == 2 / 3
    assert torch.isclose(torch.tensor(measured["loss"]), -torch.log(torch.tensor([0.5, 0.8, 0.3])).mean())
    assert torch.isclose(loss(logits, torch.tensor([0, 1, 0])), torch.tensor(measured["loss"]))
