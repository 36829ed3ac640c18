"""What a backbone offers before anything is trained: its stages, and what a frostline at each would cost."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import nn

from frostline.backbones import Backbone, load_backbone
from frostline.network import Network

STORED_BYTES = 2  # a number in bf16


def inspect(
    backbone: str | nn.Module | Backbone, *, weights: str | Path = "none", image_size: int | None = None
) -> dict[str, Any]:
    """The stages of a backbone from the image to the head.

    Of each: name, output_shape of one image, parameters, `trains` (parameters from here to the head) and
    `stored_bytes` (an image, when the frostline lies right below; decoded pixels below the first stage).
    """
    chosen = load_backbone(backbone, weights, image_size=image_size)
    network = Network(chosen.model, chosen.preprocessing)
    stages = []
    for i, stage in enumerate(network.stages):
        pixels = i == 0
        stages.append(
            {
                "name": stage.name,
                "output_shape": list(stage.shape),
                "parameters": stage.parameters,
                "trains": sum(above.parameters for above in network.stages[i:]),
                "stored_bytes": 3 * chosen.preprocessing.size**2
                if pixels
                else STORED_BYTES * math.prod(stage.input_shape),
            }
        )
    return {
        "backbone": chosen.name,
        "weights": chosen.weights,
        "image_size": chosen.preprocessing.size,
        "cuts": len(network.trace.cuts) if network.trace else 2,
        "untraceable": network.untraceable,
        "stages": stages,
    }
