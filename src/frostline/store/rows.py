"""What the activations at one frostline are: of which frozen part, in which form, and what identifies them."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from dataclasses import asdict
from functools import cached_property

import torch
from torch import Tensor

from frostline.data.decoding import DECODER
from frostline.data.views import Views
from frostline.machine import Machine
from frostline.network.fingerprint import NotCoveredError
from frostline.network.part import Part
from frostline.network.tracing import Cut
from frostline.preprocessing import Preprocessing, normalised

FORMAT = 2  # of the rows; part of the key


def stored_dtype(machine: Machine, is_image: bool) -> torch.dtype:
    """In which type rows are stored; below the first stage nothing is frozen, and the decoded images are."""
    if is_image:
        return torch.uint8
    return torch.bfloat16 if machine.precision == "bf16" else torch.float32


def row_bytes(cut: Cut, machine: Machine) -> int:
    """The size of one stored row at a cut."""
    return math.prod(cut.shape) * stored_dtype(machine, cut.position == 0).itemsize


class Rows:
    """What the rows of one frostline are: of which frozen part, in which form, and what identifies them."""

    def __init__(self, lower: Part, views: Views, machine: Machine) -> None:
        self.lower, self.views, self.machine = lower, views, machine
        self.preprocessing: Preprocessing = lower.preprocessing
        self.dtype = stored_dtype(machine, lower.is_image)

    @cached_property
    def not_storable(self) -> str:
        """Why nobody can tell these rows from others, so that they must not be stored; "" where one can."""
        return self._frozen[1] if self.views.repeatable else "the views are somebody's own function"

    @cached_property
    def _frozen(self) -> tuple[str, str]:
        """A digest of the frozen part, and ""; where it has none, text that is like no other, and the reason."""
        try:
            return self.lower.fingerprint(), ""
        except NotCoveredError as error:
            return f"unknown {uuid.uuid4().hex}", str(error)

    @cached_property
    def about(self) -> dict[str, object]:
        """Everything that a row depends on but the image and its view; and a label for people.

        Not the device and the version of torch: rows of several agree, or are refused when they are opened.
        """
        return {
            "format": FORMAT,
            "frozen": self._frozen[0],
            "preprocessing": asdict(self.preprocessing),
            "precision": "uint8" if self.lower.is_image else self.machine.precision,
            "decoder": DECODER,
            "label": f"below {self.lower.frostline}",
            "shape": list(self.lower.output_shape),
        }

    def key(self) -> str:
        text = json.dumps({name: v for name, v in self.about.items() if name != "label"}, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def row_bytes(self) -> int:
        return math.prod(self.lower.output_shape) * self.dtype.itemsize

    def normalise(self, rows: Tensor) -> Tensor:
        """From rows as stored to what the upper part takes: (B, …) of float32, maps channels-last."""
        if self.lower.is_image:
            return normalised(rows.movedim(-1, 1), self.preprocessing)
        return (rows.movedim(-1, 1) if rows.ndim == 4 else rows).float()
