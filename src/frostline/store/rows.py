"""What the activations at one frostline are: of which frozen part, in which form, and what identifies them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from frostline.data.decoding import DECODER
from frostline.data.views import Views
from frostline.machine import Machine
from frostline.network.part import Part
from frostline.preprocessing import Preprocessing, normalised

FORMAT = 1  # of the rows; part of the key


class Rows:
    """What the rows of one frostline are: of which frozen part, in which form, and what identifies them."""

    def __init__(self, lower: Part, views: Views, machine: Machine) -> None:
        self.lower, self.views, self.machine = lower, views, machine
        self.preprocessing: Preprocessing = lower.preprocessing
        self.dtype = torch.bfloat16 if machine.precision == "bf16" else torch.float32
        if lower.is_image:
            self.dtype = torch.uint8  # nothing is frozen: what is computed once is the decoded image

    @cached_property
    def about(self) -> dict[str, object]:
        """Everything that a row depends on but the image and its view; and a label for people."""
        return {
            "format": FORMAT,
            "frozen": self.lower.fingerprint(),
            "preprocessing": asdict(self.preprocessing),
            "precision": "uint8" if self.lower.is_image else self.machine.precision,
            "device": self.machine.device.type,
            "decoder": DECODER,
            "torch": torch.__version__,
            "label": f"below {self.lower.frostline}",
            "shape": list(self.lower.output_shape),
        }

    def key(self) -> str:
        text = json.dumps({name: v for name, v in self.about.items() if name != "label"}, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def row_bytes(self) -> int:
        return int(np.prod(self.lower.output_shape)) * torch.empty(0, dtype=self.dtype).element_size()

    def normalise(self, rows: Tensor) -> Tensor:
        """From rows as stored to what the upper part takes: (B, …) of float32, maps channels-last."""
        if self.lower.is_image:
            return normalised(rows.movedim(-1, 1), self.preprocessing)
        return (rows.movedim(-1, 1) if rows.ndim == 4 else rows).float()
