"""Where in a picture the network found what it predicts (Grad-CAM, Selvaraju et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def heat_maps(model: nn.Module, inputs: Tensor, classes: Tensor) -> Tensor | None:
    """Of each input how much each place speaks for a class, 0 … 1: (B, h, w); None where the network has no places.

    model: in evaluation mode. inputs: (B, channels, size, size), normalised. classes: the numbers (B,) to explain.
    The last maps (B, C, h, w) of more than one place are weighed by the mean gradient of the class over each channel;
    what speaks against the class is left out, and the largest value of each picture is 1.
    """
    maps: list[Tensor] = []

    def note(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1 and output.requires_grad:
            maps.append(output)

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        with torch.enable_grad():
            logits = model(inputs.detach().clone().requires_grad_())
            if not maps or logits.ndim != 2:
                return None
            (gradients,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), maps[-1])
    finally:
        for hook in hooks:
            hook.remove()
    heat = (gradients.mean((2, 3), keepdim=True) * maps[-1]).sum(1).relu().detach()
    return heat / heat.flatten(1).max(1).values.clamp(min=1e-12)[:, None, None]


def glowing(picture: Tensor, heat: Tensor) -> Tensor:
    """A picture (H, W, 3 or 1) of uint8, dark where nothing speaks for the class and as it is where most does."""
    size = (picture.shape[0], picture.shape[1])
    shade = functional.interpolate(heat[None, None], size, mode="bilinear", align_corners=False)[0, 0, :, :, None]
    return (picture * (0.15 + 0.85 * shade)).round().byte()
