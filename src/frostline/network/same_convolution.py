"""A convolution with TensorFlow's padding."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's padding: an odd pixel goes to the right and to the bottom."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.margins(x.shape[-2], 0), self.margins(x.shape[-1], 1)
        x = functional.pad(x, [*columns, *rows])
        return functional.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def margins(self, length: int, axis: int) -> tuple[int, int]:
        """Pixels to add before and after, along one axis."""
        stride, kernel = self.stride[axis], self.kernel_size[axis]
        spare = max(0, (math.ceil(length / stride) - 1) * stride + kernel - length)
        return spare // 2, spare - spare // 2
