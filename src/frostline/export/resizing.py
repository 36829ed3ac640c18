"""The preprocessing of a classifier as tensor operations, so that it can be part of an exported graph.

It gives the same pixels as Pillow's `Image.resize` with a box, bit for bit: the same filters, the same rounding of the
weights to 22 bits, and uint8 between the horizontal and the vertical pass (Pillow's Resample.c). One level of one in
5,000 values can move a logit by 0.001, so a runtime must compute this in float64. Height and width of the images may
change from call to call. No branch depends on them, because a graph has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from frostline.preprocessing import Preprocessing

BITS = 22  # of a weight in Pillow: 32 bits less 8 for the pixel and 2 for overshoot
BLOCK = 8  # pixels of the result that share one window of the image: weights beyond it are zero, and cost nothing
LUMA = (19595, 38470, 7471)  # of red, green and blue in 1/65536, ITU-R 601 as in Pillow

Filter = Callable[[Tensor], Tensor]


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _cubic(x: Tensor) -> Tensor:
    a, x = -0.5, x.abs()
    inner, outer = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, inner, torch.where(x < 2, outer, torch.zeros_like(x)))


def _lanczos(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 3, _sinc(x) * _sinc(x / 3), torch.zeros_like(x))


def _sinc(x: Tensor) -> Tensor:
    scaled = torch.where(x == 0, torch.ones_like(x), x * math.pi)
    return torch.where(x == 0, torch.ones_like(x), scaled.sin() / scaled)


FILTERS: dict[str, tuple[Filter, int]] = {"bilinear": (_triangle, 1), "bicubic": (_cubic, 2), "lanczos": (_lanczos, 3)}


@dataclass(frozen=True)
class Axis:
    """How one side of an image of `length` pixels becomes `size` pixels of the network's input.

    length, resized: of the side before and after the resize of the whole image; numbers, or symbols of a graph.
    """

    length: int | torch.SymInt
    resized: int | torch.SymInt
    size: int

    def weights(self, interpolation: str) -> tuple[Tensor, Tensor]:
        """The pixels in the window of each block (blocks, window), and their weights (blocks, BLOCK, window).

        The weights are whole numbers of 1 / 2^22, in float64.
        """
        kernel, radius = FILTERS[interpolation]
        length, resized = _number(self.length), _number(self.resized)
        start, count, begin, extent = self._box(length, resized)
        scale = extent / count
        stretch = scale.clamp(min=1)
        blocks = -(-self.size // BLOCK)
        place = torch.arange(blocks * BLOCK, dtype=torch.float64).view(blocks, BLOCK) - start
        centre = begin + (place + 0.5) * scale
        low = (centre - radius * stretch + 0.5).floor().clamp(min=0)
        high = torch.minimum((centre + radius * stretch + 0.5).floor(), length)
        width = self._window(radius)
        first = torch.minimum(low[:, :1], (length - width).clamp(min=0))
        taps = first + torch.arange(width, dtype=torch.float64)
        x = taps[:, None]
        weight = kernel((x - centre[..., None] + 0.5) / stretch)
        weight = torch.where((x >= low[..., None]) & (x < high[..., None]), weight, torch.zeros_like(weight))
        total = weight.sum(-1, keepdim=True)
        weight = weight / torch.where(total == 0, torch.ones_like(total), total) * (1 << BITS)
        rounded = (weight + 0.5 * weight.sign()).trunc()
        shown = ((place >= 0) & (place < count))[..., None]  # the rest lies beyond the image and stays black
        return taps.long(), torch.where(shown, rounded, torch.zeros_like(rounded))

    def _box(self, length: Tensor, resized: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The first pixel of the result that shows the image, their number, and begin and extent of what they show.

        Begin and extent are computed in float32, as in Pillow.
        """
        spare = resized - self.size
        margin = torch.where(spare >= 0, (spare / 2).round(), -(-spare / 2).floor())
        left, right = margin * length / resized, (margin + self.size) * length / resized
        begin, end = left.clamp(min=0).float(), torch.minimum(right, length).float()
        zoom = self.size / (right - left)
        inside = (left >= 0) & (right <= length)
        all_of_it = torch.full_like(length, self.size)
        count = torch.where(inside, all_of_it, ((end - begin) * zoom).round().clamp(min=1))
        start = torch.where(left < 0, (-left * zoom).round(), torch.zeros_like(left))
        return start, count, begin.double(), (end - begin).double()

    def _window(self, radius: int) -> int | torch.SymInt:
        """How many pixels of the side a block needs at most."""
        blocks, reach = BLOCK * self.length // self.resized, 2 * radius * torch.sym_max(self.length, self.resized)
        return torch.sym_min(self.length, blocks + reach // self.resized + 4)


def _number(value: int | torch.SymInt) -> Tensor:
    return torch.scalar_tensor(value, dtype=torch.float64)


def _resized_along(pixels: Tensor, axis: Axis, interpolation: str) -> Tensor:
    """Pixels (length, …) of 0 … 255 in float64 along the first dimension: (size, …)."""
    taps, weights = axis.weights(interpolation)
    windows = pixels.flatten(1)[taps.flatten()].view(*taps.shape, -1)
    sums = (weights @ windows).flatten(0, 1)[: axis.size]
    return ((sums + (1 << (BITS - 1))) / (1 << BITS)).floor().clamp(0, 255).view(axis.size, *pixels.shape[1:])


def resized(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Images (N, H, W, 3) of uint8 as the network sees them, cropped and resized: (N, size, size, C) of uint8."""
    height, width, how = images.shape[1], images.shape[2], preprocessing
    wide: int | torch.SymInt = how.resize
    high: int | torch.SymInt = how.resize
    if how.crop == "center":  # the shorter side becomes `resize`; the longer one keeps the proportion
        wide = torch.sym_max(how.resize, how.resize * width // height)
        high = torch.sym_max(how.resize, how.resize * height // width)
    pixels = images.permute(2, 1, 0, 3).to(torch.float64)  # (W, H, N, 3)
    pixels = _resized_along(pixels, Axis(width, wide, how.size), how.interpolation)
    pixels = _resized_along(pixels.transpose(0, 1), Axis(height, high, how.size), how.interpolation)
    if how.channels == 1:
        luma = torch.tensor(LUMA, dtype=torch.float64)
        pixels = (((pixels * luma).sum(-1, keepdim=True) + (1 << 15)) / (1 << 16)).floor()
    return pixels.permute(2, 0, 1, 3).to(torch.uint8)
