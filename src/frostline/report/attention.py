"""Heat maps of the evidence for a class (Grad-CAM, Selvaraju et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

GREYS = (40.0, 200.0)  # darkest and lightest grey of the picture below the colours
LITTLE, MOST = (200.0, 30.0, 60.0), (255.0, 225.0, 40.0)
COVER = 0.8  # opacity of the colour where the evidence is strongest


def heat_maps(model: nn.Module, inputs: Tensor, classes: Tensor) -> Tensor | None:
    """Heat maps (B, h, w) from 0 to 1, one per input; None if the network has no spatial feature maps.

    model: in evaluation mode. inputs: (B, channels, size, size), normalised. classes: class numbers (B,) to explain.
    The last feature maps (B, C, h, w) larger than 1 × 1 are weighted by the mean gradient of the class logit per
    channel. Evidence against the class is set to 0, and each map is scaled to a maximum of 1.
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
    """Lay a heat map over a picture (H, W, 3 or 1) of uint8, made grey: (H, W, 3). Red is little evidence, yellow most.

    The contrast of the grey is stretched, which helps with dark photographs, and it is neither black nor white, so
    that the colours stand out.
    """
    size = (picture.shape[0], picture.shape[1])
    shade = functional.interpolate(heat[None, None].float(), size, mode="bilinear", align_corners=False)[
        0, 0, :, :, None
    ]
    grey = picture.float().mean(2, keepdim=True)
    low, high = grey.flatten().quantile(torch.tensor([0.02, 0.98])).tolist()
    paper = GREYS[0] + (GREYS[1] - GREYS[0]) * ((grey - low) / max(high - low, 1.0)).clamp(0, 1)
    colour = torch.lerp(torch.tensor(LITTLE), torch.tensor(MOST), shade)
    return torch.lerp(paper.expand_as(colour), colour, COVER * shade.sqrt()).round().byte()
