"""The preprocessing of a backbone's images: geometry and normalisation, always from the metadata of the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """What happens to a decoded image before the network sees it.

    size: height and width of the network's input in pixels.
    resize: the length the shorter side is resized to before the centre crop of `size` (pixels).
    interpolation: "bilinear", "bicubic", "nearest" or "lanczos"; downscaling is always antialiased.
    crop: "center" keeps the aspect ratio and crops; "squash" resizes both sides to `resize`, then crops.
    mean, std: one per channel, for pixel values scaled to 0…1; three for RGB, or one for greyscale.
    """

    size: int = 224
    resize: int = 256
    interpolation: str = "bilinear"
    crop: Literal["center", "squash"] = "center"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    @property
    def channels(self) -> int:
        """The number of channels: 3 for RGB, 1 for greyscale.

        >>> Preprocessing(mean=(0.5,), std=(0.25,)).channels
        1
        """
        return len(self.mean)

    def at_size(self, size: int) -> Preprocessing:
        """The same preprocessing for another input size, with the same share of the image cropped."""
        return replace(self, size=size, resize=max(size, math.floor(size * self.resize / self.size)))

    def box(self, width: int, height: int) -> Box:
        """The part (left, top, right, bottom) of a `width` × `height` image that the network sees.

        Resizing this box to `size` × `size` samples the same points as "resize the shorter side to `resize`,
        then crop the centre" does (torchvision's Resize + CenterCrop, timm's eval transform), in one step and up to
        rounding.
        """
        if self.crop == "squash":
            resized_width = resized_height = self.resize
        elif width <= height:
            resized_width, resized_height = self.resize, int(self.resize * height / width)
        else:
            resized_width, resized_height = int(self.resize * width / height), self.resize
        left, top = _margin(resized_width - self.size), _margin(resized_height - self.size)
        x, y = width / resized_width, height / resized_height
        return left * x, top * y, (left + self.size) * x, (top + self.size) * y


def _margin(spare: int) -> int:
    """The margin before the crop on one axis; negative if the crop is larger than the image, as torchvision pads it."""
    return round(spare / 2) if spare >= 0 else -(-spare // 2)


def preprocessing_from(stored: dict[str, Any]) -> Preprocessing:
    """The preprocessing from its `dataclasses.asdict`, also after a round trip through JSON."""
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()}
    return Preprocessing(**values)


def normalised(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Images (B, C, H, W) of uint8, normalised for the network, as float32 in channels-last memory format."""
    import torch  # takes seconds, and a process that only decodes images does without

    rows = images.permute(0, 2, 3, 1).flatten(2)  # (B, H, W × C): whole rows are ten times as fast
    mean = 255 * torch.tensor(preprocessing.mean, device=images.device).repeat(images.shape[3])
    std = 255 * torch.tensor(preprocessing.std, device=images.device).repeat(images.shape[3])
    return rows.float().sub_(mean).div_(std).view(*rows.shape[:2], -1, preprocessing.channels).permute(0, 3, 1, 2)
