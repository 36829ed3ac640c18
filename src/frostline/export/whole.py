"""A classifier as one module: decoded images in, calibrated probabilities out."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from frostline.classifier.classifier import Classifier
from frostline.errors import UsageError
from frostline.export.resizing import FILTERS, resized
from frostline.preprocessing import Preprocessing

Answer = Callable[[np.ndarray], np.ndarray]  # images (N, H, W, 3) of uint8 -> probabilities (N, classes)


class Whole(nn.Module):
    """Images (N, H, W, 3) of uint8, any H and W -> probabilities (N, classes) of float32, temperature included.

    For several labels per image each probability stands alone; otherwise they sum to 1.
    resizes: False for a runtime without float64; it takes pictures (N, size, size, C) of uint8, cropped and resized.
    """

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, temperature: float, *, several: bool, resizes: bool
    ) -> None:
        super().__init__()
        self.resizes = resizes
        self.network, self.preprocessing = network, preprocessing
        self.temperature, self.several = temperature, several
        self.mean, self.std = (255 * torch.tensor(values) for values in (preprocessing.mean, preprocessing.std))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(self.pixels(image)) / self.temperature
        return logits.sigmoid() if self.several else logits.softmax(1)

    def pixels(self, image: Tensor) -> Tensor:
        """What the network gets: (N, C, size, size), normalised."""
        pictures = resized(image, self.preprocessing) if self.resizes else image
        return ((pictures.float() - self.mean) / self.std).permute(0, 3, 1, 2)


def whole(classifier: Classifier, *, resizes: bool = True) -> Whole:
    """The classifier as one module on the CPU; it shares no weights with it.

    Raises UsageError for segmentation, and for an interpolation that a graph cannot compute exactly.
    """
    how = classifier.preprocessing
    if classifier.task == "segmentation":
        raise UsageError("a segmentation gives masks, which cannot be exported yet; use frostline predict --masks")
    if how.interpolation not in FILTERS:
        raise UsageError(f"the interpolation {how.interpolation} cannot be exported; it can be {', '.join(FILTERS)}")
    network = copy.deepcopy(classifier.model).cpu().to(memory_format=torch.contiguous_format).eval()
    return Whole(network, how, classifier.temperature, several=classifier.task == "multilabel", resizes=resizes).eval()
