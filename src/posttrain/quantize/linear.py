"""A linear layer with int8 weights: one scale an output channel, integer arithmetic on the activations if asked.

Activations stay floating-point, get a scale a row on the fly, or one range fixed beforehand. A fixed range that isn't
symmetric is moved to the middle before it is rounded, and what that adds to the outputs is taken off the bias.
"""

from __future__ import annotations

import torch
from torch import nn

from posttrain.core.errors import Failure
from posttrain.models.surgery import IntegerWeight, features
from posttrain.ops.affine import affine_parameters
from posttrain.ops.kernels import int8_linear

_LARGEST = 127  # of the codes on both sides of zero


class Int8Linear(nn.Module):
    """Stands where an nn.Linear or GPT-2's Conv1D stood; it has no parameters, so nothing trains it.

    Attributes:
        weight: int8 [outputs, inputs].
        scale: float32 [outputs]; the matrix is weight * scale[:, None].
        bias: float32 [outputs] or None.
        dynamic: Whether activations are quantized row by row on the fly.
        input_scale: float32 [], the scale of all activations; None where it isn't fixed.
        input_shift: float32 [], added to the activations before they are rounded; None with a symmetric range.
    """

    is_linear = True

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bias: bool,
        dynamic: bool,
        *,
        fixed_range: bool = False,
        symmetric: bool = True,
    ) -> None:
        """Tensors are empty.

        Args:
            inputs: Features of an activation.
            outputs: Output channels.
            bias: Whether something is added to the outputs.
            dynamic: Quantize activations row by row.
            fixed_range: Quantize activations with a range that `fix_range` sets, instead.
            symmetric: Whether that range is the same on both sides of zero; any other needs a bias too.
        """
        super().__init__()
        self.in_features, self.out_features, self.dynamic = inputs, outputs, dynamic
        self.weight: torch.Tensor
        self.scale: torch.Tensor
        self.bias: torch.Tensor | None
        self.input_scale: torch.Tensor | None
        self.input_shift: torch.Tensor | None
        shifted = fixed_range and not symmetric
        self.register_buffer("weight", torch.empty(outputs, inputs, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(outputs, dtype=torch.float32))
        self.register_buffer("bias", torch.empty(outputs, dtype=torch.float32) if bias or shifted else None)
        self.register_buffer("input_scale", torch.empty((), dtype=torch.float32) if fixed_range else None)
        self.register_buffer("input_shift", torch.empty((), dtype=torch.float32) if shifted else None)

    def fix_range(self, minimum: float, maximum: float) -> None:
        """Set the range of activations; weights and bias must be there already.

        Args:
            minimum: The smallest activation that isn't clamped. With a symmetric range the larger side counts.
            maximum: The largest one.
        """
        assert self.input_scale is not None
        scale, shift = scale_and_shift(minimum, maximum, symmetric=self.input_shift is None)
        self.input_scale.copy_(scale)
        if self.input_shift is not None and self.bias is not None:
            self.input_shift.copy_(shift)
            self.bias.sub_(shift.to(self.bias.device) * self.effective_weight().sum(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., inputs] -> [..., outputs] in the type of `x`; differentiable with respect to `x`."""
        shifted = x if self.input_shift is None else x.float() + self.input_shift
        y = int8_linear(shifted, self.weight, self.scale, self.bias, dynamic=self.dynamic, input_scale=self.input_scale)
        return y.to(x.dtype)

    def effective_bias(self) -> torch.Tensor | None:
        """What it adds to the outputs, float32 [outputs]: the bias without what makes up for the shift."""
        if self.bias is None or self.input_shift is None:
            return self.bias
        return self.bias + self.input_shift * self.effective_weight().sum(1)

    def effective_weight(self) -> torch.Tensor:
        """The matrix it amounts to, float32 [outputs, inputs]."""
        return self.weight.float() * self.scale[:, None]

    def integer_weight(self) -> IntegerWeight:
        """The weights moved up to unsigned codes; what is done to activations isn't part of it."""
        codes = (self.weight.to(torch.int16) + (_LARGEST + 1)).to(torch.uint8)
        return IntegerWeight(codes, self.scale[:, None], None, bits=8, group_size=self.in_features)

    def extra_repr(self) -> str:
        """Shown when the network is printed."""
        fixed = "" if self.input_scale is None else f", fixed_range=True, symmetric={self.input_shift is None}"
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, dynamic={self.dynamic}{fixed}"


def scale_and_shift(minimum: float, maximum: float, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """How activations of a range are rounded: (x + shift) / scale, to the codes -127 … 127; zero stays exact.

    Returns:
        float32 [] each; the shift is 0 when symmetric.
    """
    lower, upper = torch.tensor(minimum).float().clamp(max=0), torch.tensor(maximum).float().clamp(min=0)
    if symmetric:
        scale, _ = affine_parameters(lower, upper, bits=8, symmetric=True)
        return scale, torch.zeros(())
    scale = (upper - lower) / (2 * _LARGEST)
    scale = torch.where(scale < torch.finfo(torch.float32).tiny, 1.0, scale)
    return scale, (-_LARGEST - lower / scale).round().clamp(-_LARGEST, _LARGEST) * scale


def empty_int8(
    layer: nn.Module, *, dynamic: bool = False, fixed_range: bool = False, symmetric: bool = True
) -> Int8Linear:
    """An `Int8Linear` for the place of a layer, with empty tensors; see there for the arguments."""
    inputs, outputs = features(layer)
    bias = layer.bias is not None
    return Int8Linear(inputs, outputs, bias, dynamic, fixed_range=fixed_range, symmetric=symmetric)


def fill_int8(quantized: Int8Linear, name: str, layer: nn.Module) -> Int8Linear:
    """Give an empty `Int8Linear` a layer's weights, rounded symmetrically with one scale an output channel.

    Args:
        quantized: It is changed and returned.
        name: Of the layer, for the error.
        layer: An nn.Linear or a Conv1D.

    Raises:
        Failure: If the layer has weights that are no numbers.
    """
    matrix = matrix_of(layer)
    scale = (matrix.abs().amax(1) / _LARGEST).clamp_min(torch.finfo(torch.float32).tiny)  # a row of zeros stays zero
    if not scale.isfinite().all():
        raise Failure(f"{name} has weights that are not numbers.", "Check the model.")
    quantized.weight.copy_((matrix / scale[:, None]).round().clamp(-_LARGEST, _LARGEST))
    quantized.scale.copy_(scale)
    if quantized.bias is not None:
        quantized.bias.copy_(layer.bias.detach() if isinstance(layer.bias, torch.Tensor) else torch.zeros(len(scale)))
    return quantized.to(matrix.device).train(layer.training)


def matrix_of(layer: nn.Module) -> torch.Tensor:
    """The weight of an nn.Linear or a Conv1D, without gradient, as float32 [outputs, inputs]."""
    assert isinstance(layer.weight, torch.Tensor)
    weight = layer.weight.detach().float()
    return weight.T if type(layer).__name__ == "Conv1D" else weight
