"""The activations at one frostline: their frozen part, their form, and their identity."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from dataclasses import asdict
from functools import cached_property

import numpy as np
import torch

from frostline.data.decoding import DECODER
from frostline.data.views import Views
from frostline.machine import Machine
from frostline.network.fingerprint import NotCoveredError
from frostline.network.part import Part
from frostline.network.tracing import Cut
from frostline.preprocessing import Preprocessing
from frostline.store.shard_file import Form

FORMAT = 2  # of the rows and their names; part of the key


class Rows:
    """The rows at one frostline: their frozen part, their form, and their identity."""

    def __init__(self, lower: Part, views: Views, machine: Machine) -> None:
        self.lower, self.views, self.machine = lower, views, machine
        self.preprocessing: Preprocessing = lower.preprocessing
        self.dtype = torch.bfloat16 if machine.precision == "bf16" else torch.float32
        if lower.is_image:
            self.dtype = torch.uint8  # nothing is frozen: the decoded image is cached

    @cached_property
    def not_storable(self) -> str:
        """Why these rows cannot be identified, and so must not be stored; "" if they can."""
        return self._frozen[1] if self.views.repeatable else "the augmentation is a function of your own"

    @cached_property
    def _frozen(self) -> tuple[str, str]:
        """A digest of the frozen part, and ""; without a digest, unique text and the reason."""
        try:
            return self.lower.fingerprint(), ""
        except NotCoveredError as error:
            return f"unknown {uuid.uuid4().hex}", str(error)

    @cached_property
    def about(self) -> dict[str, object]:
        """Everything that a row depends on except the image and its view; and a label for people.

        Device and torch version are not included: rows from several agree, or are refused when they are opened.
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

    @cached_property
    def form(self) -> Form:
        """The form of a stored row: maps have channels last."""
        shape = tuple(self.lower.output_shape)
        if len(shape) == 3:
            shape = (*shape[1:], shape[0])
        return Form("" if self.not_storable else self.key(), shape, str(self.dtype).removeprefix("torch."))

    @property
    def pixels(self) -> Preprocessing | None:
        """How stored pictures become inputs of the upper part; None for activations."""
        return self.preprocessing if self.lower.is_image else None


def row_bytes(cut: Cut, machine: Machine) -> int:
    """Bytes per row at a cut: numbers in the machine's precision, pictures in uint8."""
    number = 1 if cut.position == 0 else 2 if machine.precision == "bf16" else 4
    return math.prod(cut.shape) * number


def view_names(digests: np.ndarray, views: Views) -> np.ndarray:
    """16-byte names for the content of each view of each image: from digests (N, 16) to names (N, views, 16) of uint8.

    The name of view 0 is the image's digest. The others are derived from it by seed, number and augmentation.
    """
    salts = np.zeros((views.count, 16), np.uint8)
    for number in range(1, views.count):
        salts[number] = np.frombuffer(views.name(b"", number), np.uint8)
    return digests[:, None, :] ^ salts
