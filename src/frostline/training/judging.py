"""The outputs of a network for all activations of a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from frostline.machine import exact
from frostline.store.activations import Activations
from frostline.tasks import Loss, Outputs, Task, classification, join

Logits = Callable[[Tensor], Tensor]  # of some rows: numbers (B,) -> (B, …), on the device of the network
BATCH, MAPS = 128, 16  # rows at once, and rows of maps


@torch.inference_mode()
def predict_all(
    upper: nn.Module,
    inputs: Activations,
    task: Task = classification.TASK,
    loss: Loss | None = None,
    logits: Logits | None = None,
    size: int = BATCH,
) -> tuple[Outputs, float]:
    """The outputs for all rows in evaluation mode, on the CPU, and a mean loss in nats, by default the plain one.

    upper: its mode is restored afterwards. loss: (logits, targets) -> scalar. logits: how those of some rows are
    computed, by default by `upper`. size: rows at once, of maps at most MAPS.
    """
    device = next(upper.parameters()).device
    was_training = upper.training
    upper.eval()
    total = 0.0
    maps = inputs.images.task == "segmentation"  # too large to keep them all: use the mean loss over the batches

    def computed(rows: Tensor) -> Tensor:
        with exact(device):
            found: Tensor = upper(inputs.fetch(rows).to(device)).float()
        return found

    def parts() -> Iterator[Outputs]:
        nonlocal total
        for rows in inputs.in_order(MAPS if maps else size):
            found, targets = (logits or computed)(rows), inputs.targets(rows)
            total += float(loss(found, targets.to(device))) * len(targets) if loss and maps else 0.0
            yield task.outputs(found.cpu(), targets)

    try:
        outputs = join(parts(), None if maps else len(inputs))
    finally:
        upper.train(was_training)
    if loss is None:
        return outputs, float(outputs.losses.mean())
    if maps:
        return outputs, total / len(inputs)
    return outputs, float(loss(outputs.logits.to(device), outputs.targets.to(device)))
