"""A folder for the Hugging Face Hub: weights, a configuration that timm loads, and the model card.

timm has no place for a temperature, so the last layer's weights and biases are divided by it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from frostline.classifier.elsewhere import of_timm
from frostline.errors import UsageError
from frostline.export.whole import Answer, Whole
from frostline.files import write_atomically, write_tensors
from frostline.preprocessing import Preprocessing

ENDING = ""
NEEDS: tuple[str, ...] = ()
RESIZES = True
KEPT = ("fixed_input_size", "first_conv", "classifier")  # what timm's configuration says of an architecture
LEVELS = 0.5  # of 255, the mean over an image; timm resizes before it crops, which rounds some pixels to the next level


def write(program: Whole, about: Mapping[str, str], file: Path) -> None:
    """Write the folder. about: needs `backbone`, `classes`, `licence` and `card`, the text of README.md.

    Raises UsageError for a network that timm cannot build.
    """
    config = _config(about, program.preprocessing)
    layers = config["pretrained_cfg"]["classifier"]
    state = _calibrated(program, (layers,) if isinstance(layers, str) else tuple(layers or ()), about["backbone"])
    file.mkdir()
    write_tensors(file / "model.safetensors", state, {"format": "pt"})  # as transformers asks for
    write_atomically(file / "config.json", (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())
    write_atomically(file / "README.md", about["card"].encode())


def _config(about: Mapping[str, str], how: Preprocessing) -> dict[str, Any]:
    """The content of config.json."""
    import timm

    source, _, name = about["backbone"].rpartition(":")
    if source not in ("timm", "bundled"):
        raise UsageError(
            f"timm cannot build {about['backbone']}, and a folder for the Hub is loaded with timm; use format onnx, "
            "openvino, torch, safetensors or pth"
        )
    architecture = of_timm(name) if source == "bundled" else name.partition(".")[0]
    known, classes = timm.models.get_pretrained_cfg(architecture).to_dict(), json.loads(about["classes"])
    return {
        "architecture": architecture,
        "num_classes": len(classes),
        "label_names": classes,
        "pretrained_cfg": {
            "input_size": [how.channels, how.size, how.size],
            "interpolation": how.interpolation,
            "crop_pct": _share(how),
            "crop_mode": how.crop,
            "mean": list(how.mean),
            "std": list(how.std),
            "num_classes": len(classes),
            "pool_size": None,
            "license": about["licence"],
            **{key: known.get(key) for key in KEPT},
        },
    }


def _share(how: Preprocessing) -> float:
    """The shortest number that timm divides the size by to get `resize`, rounded down."""
    shares = [round(how.size / how.resize, digits) for digits in range(1, 17)]
    fits = (share for share in shares if share and math.floor(how.size / share) == how.resize)
    return next(fits, how.size / (how.resize + 0.5))


def _calibrated(program: Whole, layers: tuple[str, ...], backbone: str) -> dict[str, Tensor]:
    """The weights; those of the last layers are divided by the temperature."""
    state = dict(program.network.state_dict())
    if not layers or any(f"{layer}.weight" not in state for layer in layers):
        raise UsageError(
            f"the last layer of this {backbone} is not the one that timm builds; use format onnx, openvino, torch, "
            "safetensors or pth"
        )
    last = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias") if f"{layer}.{kind}" in state]
    return {**state, **{name: state[name] / program.temperature for name in last}}


def answering(file: Path, program: Whole) -> Answer:
    """The probabilities of timm's model for the pixels of every prediction.

    Raises ValueError if the pixels of timm's own transform are others.
    """
    import timm

    model = timm.create_model(f"local-dir:{file}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))

    def answer(images: np.ndarray) -> np.ndarray:
        pixels = program.pixels(torch.from_numpy(images))
        theirs = torch.stack([transform(Image.fromarray(image)) for image in images])
        apart = float(((theirs - pixels).abs().mean((0, 2, 3)) * program.std).max())
        if not apart <= LEVELS:
            raise ValueError(f"the pixels of timm's transform differ by {apart:.1f} of 255")
        with torch.inference_mode():
            logits = model(pixels)
            found: np.ndarray = (logits.sigmoid() if program.several else logits.softmax(1)).numpy()
        return found

    return answer
