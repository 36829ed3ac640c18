"""The outputs of a network for all activations of a split."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from frostline.machine import exact
from frostline.store.activations import Activations
from frostline.tasks import Loss, Outputs, Task, classification, join


@torch.inference_mode()
def predict_all(
    upper: nn.Module, inputs: Activations, task: Task = classification.TASK, loss: Loss | None = None
) -> tuple[Outputs, float]:
    """The outputs for all rows in evaluation mode, on the CPU, and a mean loss in nats, by default the plain one.

    upper: its mode is restored afterwards. loss: (logits, targets) -> scalar.
    """
    device = next(upper.parameters()).device
    was_training = upper.training
    upper.eval()
    total = 0.0
    maps = inputs.images.task == "segmentation"  # too large to keep them all: use the mean loss over the batches

    def parts() -> Iterator[Outputs]:
        nonlocal total
        for x, targets in inputs.batches(16 if maps else 128):
            with exact(device):
                logits = upper(x.to(device)).float()
            total += float(loss(logits, targets.to(device))) * len(targets) if loss and maps else 0.0
            yield task.outputs(logits.cpu(), targets)

    outputs = join(parts(), None if maps else len(inputs))
    upper.train(was_training)
    if loss is None:
        return outputs, float(outputs.losses.mean())
    if maps:
        return outputs, total / len(inputs)
    return outputs, float(loss(outputs.logits.to(device), outputs.targets.to(device)))
