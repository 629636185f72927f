"""The grid that weights are rounded to: how many bits, which weights share a scale, and where the scale comes from.

Codes are unsigned, w ~ s (q - z). Scales are stored in half precision, as in the checkpoints of GPTQ and AWQ and in
GGUF; they are rounded up to it before anything is rounded by them, so that codes, stored model and training with this
grid agree exactly and the range still reaches the largest weight. Inside the range a weight errs by at most s / 2.

The range is that of the weights, or, with `clipping`, the one of 16 smaller ranges down to half of it that leaves the
least squared error in the group.

Left out: scales of scales (double quantization), codes that aren't evenly spaced.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.ops import affine

_SHRINKING = tuple(1 - step / 32 for step in range(17))


@dataclass(frozen=True)
class Grid:
    """What weights of a matrix [outputs, inputs] are rounded to.

    Attributes:
        bits: 2 to 8.
        group_size: Neighbouring inputs of an output channel that share a scale; None for the whole channel.
        symmetric: Fix the zero-point in the middle instead of fitting it.
        clipping: Search for a range smaller than the weights'.
    """

    bits: int
    group_size: int | None
    symmetric: bool
    clipping: bool = False

    def width(self, inputs: int) -> int:
        """Entries in a group of a matrix with so many inputs."""
        return min(self.group_size or inputs, inputs)

    def groups(self, inputs: int) -> int:
        """Groups in a row; the last one is shorter when `inputs` is no multiple."""
        return -(-inputs // self.width(inputs))

    def parameters(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and zero-points for a matrix.

        Args:
            matrix: [outputs, inputs], floating.

        Returns:
            Scale, float32 [outputs, groups], each exactly a half-precision number, infinite where that is too small for
            the weights; zero-point, int32 [outputs, groups], a code.
        """
        matrix = matrix.float()
        minimum, maximum = affine.value_range(matrix, "group", self.width(matrix.shape[1]))
        scale, zero_point = self._covering(minimum, maximum)
        if not self.clipping:
            return scale, zero_point
        least = self._squared_error(matrix, scale, zero_point)
        for factor in _SHRINKING[1:]:
            smaller, shifted = self._covering(minimum * factor, maximum * factor)
            error = self._squared_error(matrix, smaller, shifted)
            better = error < least
            least = torch.where(better, error, least)
            scale, zero_point = torch.where(better, smaller, scale), torch.where(better, shifted, zero_point)
        return scale, zero_point

    def codes(self, matrix: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """The codes of a matrix, uint8 [outputs, inputs]; scale and zero-point as from `parameters`."""
        width = self.width(matrix.shape[1])
        return affine.quantize(matrix, scale, zero_point, self.bits, self.symmetric, False, width)

    def values(self, codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """What codes stand for, float32 [outputs, inputs]."""
        return affine.dequantize(codes, scale, zero_point, self.width(codes.shape[1]))

    def _covering(self, minimum: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
        scale, zero_point = affine.affine_parameters(minimum, maximum, self.bits, self.symmetric, signed=False)
        scale = _up_to_half(scale)
        if not self.symmetric:
            lowest, highest = affine.quantization_range(self.bits, False, signed=False)
            zero_point = (lowest - minimum.clamp(max=0) / scale).round().clamp(lowest, highest).to(torch.int32)
        return scale, zero_point

    def _squared_error(self, matrix: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """Summed over each group: [outputs, groups]."""
        width = self.width(matrix.shape[1])
        error = self.values(self.codes(matrix, scale, zero_point), scale, zero_point).sub_(matrix).square_()
        missing = -matrix.shape[1] % width
        return torch.nn.functional.pad(error, (0, missing)).unflatten(1, (-1, width)).sum(2)


def _up_to_half(scale: Tensor) -> Tensor:
    """The smallest half-precision numbers not below positive ones, as float32."""
    half = scale.to(torch.float16)
    # Of a positive number the next larger one has the next larger bit pattern.
    larger = (half.view(torch.int16) + 1).view(torch.float16)
    return torch.where(half.float() < scale, larger, half).float()
