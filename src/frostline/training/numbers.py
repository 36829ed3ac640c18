"""Where numbers stop being numbers: training ends before one gets into the weights, and the images are named."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from frostline.errors import DivergedError, several
from frostline.store.activations import Activations
from frostline.tasks import Outputs

CHECK_WEIGHTS = "check the weights of the backbone, or compute with --precision fp32"


def loss_and_gradients(loss: Tensor, gradients: Sequence[Tensor]) -> tuple[float, float]:
    """The loss, and a number that is finite only if every gradient is.

    A sum tells it as surely as a norm, and on the processor in a third of the time. On a device, which is waited for
    once, the norm is one operation for all tensors.
    """
    if not gradients or gradients[0].device.type == "cpu":
        return float(loss.detach()), sum(float(gradient.sum()) for gradient in gradients)
    norm = nn.utils.get_total_norm(gradients)
    value, gradient = torch.stack([loss.detach().to(norm), norm]).tolist()
    return value, gradient


def named(names: Sequence[str], numbers: Sequence[int]) -> str:
    """The images with these numbers: at most five by name, and how many more.

    >>> named(["a", "b", "c", "d", "e", "f", "g"], [0, 1, 2, 3, 5, 6])
    'a, b, c, d, f and 1 more'
    """
    return several([names[number] for number in dict.fromkeys(numbers)])


def without_number(outputs: Outputs) -> list[int]:
    """The images whose outputs are no numbers, or whose loss is none."""
    wrong = ~outputs.losses.isfinite() | outputs.logits.isnan().any(1)
    return wrong.nonzero().flatten().tolist()


def refuse_activations(inputs: Activations, rows: Tensor, values: Tensor) -> None:
    """Raises DivergedError if some of these activations (B, …) of rows (B,) are no numbers, and names their images."""
    wrong = rows[~values.flatten(1).isfinite().all(1).cpu()] // inputs.views
    if len(wrong):
        raise DivergedError(
            f"the activations of {named(inputs.images.names, wrong.tolist())} are not finite numbers; {CHECK_WEIGHTS}"
        )


def refuse_features(features: Activations) -> None:
    """Raises DivergedError if any activation is not a finite number, and names the images of the first such block."""
    for rows in torch.arange(len(features)).split(512):
        refuse_activations(features, rows, features.fetch(rows))


def refuse_outputs(outputs: Outputs, names: Sequence[str], what: str, *losses: float) -> None:
    """Raises DivergedError if outputs or losses for the validation images are no numbers.

    what: of which network, as in "the solved head".
    """
    wrong, loss = without_number(outputs), sum(losses)
    if not wrong and math.isfinite(loss):
        return
    of = f" (for {named(names, wrong)})" if wrong else ""
    found = loss if not math.isfinite(loss) else math.nan
    raise DivergedError(f"the validation loss of {what} is {found}{of}; {CHECK_WEIGHTS}")
