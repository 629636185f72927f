"""Linear layers over int8 weights: native CPU kernels, and the same arithmetic in torch.

A weight is stored as int8 `[outputs, inputs]` with one fp32 scale per output channel (symmetric, zero point 0). The
activations are quantized on the fly, one scale a row (`dynamic=True`), or with one scale found beforehand
(`input_scale`); the integer sums are exact then. Or they stay fp32: weight-only quantization. All are the symmetric
per-channel scheme of Wu et al., 2020, "Integer Quantization for Deep Learning Inference" (section 3), with per-row
activations as in Yao et al., 2022, "ZeroQuant". Weights of fewer bits are `packed_linear`'s.

The native library is built from `csrc/` where a compiler was at hand; without it, or away from a CPU, everything here
is computed by torch. The kernels run on the threads of torch's own OpenMP library. Left out: choosing the scales of the
weights (`quantize`), asymmetric weights, groups, and widths other than eight bits.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "available",
    "instruction_set",
    "int8_linear",
    "int8_linear_reference",
    "is_plain",
    "native_library",
    "native_version",
    "quantize_rows",
    "select_instruction_set",
]

# Of the native library's interface.
_VERSION = 3

# Products of int8 numbers are below 2^14 in absolute value, so this many of them can't leave int32 ...
_MOST_NATIVE_INPUTS = 2**17 - 1
# ... and sums of this many are integers up to 2^24, which fp32 holds exactly in whatever order they are added.
_EXACT_INPUTS = 1024


def _openmp_candidates() -> list[str]:
    """OpenMP libraries to take threads from, the one torch brings first: a second one would compete for the cores."""
    root = Path(torch.__file__).parent
    own = [str(path) for folder in (root / "lib", root.parent / "torch.libs") for path in folder.glob("libgomp*.so*")]
    system = ctypes.util.find_library("gomp")
    return own + ([system] if system else [])


@functools.cache
def native_library() -> ctypes.CDLL | None:
    """The native library with the types of its functions; None where it isn't built from these sources."""
    found = importlib.util.find_spec("posttrain._native")
    if found is None or found.origin is None:
        return None
    for name in [None, *_openmp_candidates()]:
        try:
            if name is not None:
                ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
            library = ctypes.CDLL(found.origin)
        except OSError:
            continue
        break
    else:
        return None
    pointer, integer, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    library.posttrain_version.restype = integer
    if library.posttrain_version() != _VERSION:  # built from other sources than these
        return None
    library.posttrain_instruction_set.restype = ctypes.c_char_p
    library.posttrain_select_instruction_set.argtypes = [ctypes.c_char_p]
    library.posttrain_quantize_rows.argtypes = [pointer, size, size, pointer, pointer, integer]
    library.posttrain_quantize_rows.restype = None
    library.posttrain_int8_linear.argtypes = [
        *(pointer, size, size),  # x, rows, inputs
        *(pointer, pointer, pointer, size),  # weight, scale, bias, outputs
        *(pointer, integer, integer, pointer),  # y, dynamic, threads, input_scale
    ]
    library.posttrain_int8_linear.restype = integer
    library.posttrain_packed_linear.argtypes = [
        *(pointer, size, size),  # x, rows, inputs
        *(pointer, integer, pointer, pointer, size),  # codes, bits, scale, zero_point, group_size
        *(pointer, size, pointer, integer),  # bias, outputs, y, threads
    ]
    library.posttrain_packed_linear.restype = integer
    return library


def available() -> bool:
    """Whether the native kernels were built and loaded. Every x86-64 has some: see `instruction_set`."""
    return native_library() is not None


def native_version() -> int | None:
    """Version of the native library's interface, or None without one."""
    library = native_library()
    return None if library is None else int(library.posttrain_version())


def instruction_set() -> str | None:
    """What the native kernels run on: "sse2", "avx2" or "avx512" (with VNNI); None without a native library."""
    library = native_library()
    return None if library is None else str(library.posttrain_instruction_set().decode())


def select_instruction_set(name: str | None) -> None:
    """Makes the native kernels of the whole process use another instruction set, to compare them.

    The integer sums are exact, so `dynamic=True` gives the same bits on all; `dynamic=False` differs by fp32 rounding.

    Args:
        name: "sse2", "avx2" or "avx512"; None returns to the best one.

    Raises:
        RuntimeError: Without a native library.
        ValueError: The processor has no such instructions.
    """
    library = native_library()
    if library is None:
        raise RuntimeError("the native kernels are not built")
    if library.posttrain_select_instruction_set(None if name is None else name.encode()) != 0:
        raise ValueError(f"this processor can't run instruction set {name!r}")


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantizes each row to int8: `scale = max|x| / 127`, `q = round(x / scale)`, ties to even.

    A row of zeros gets scale 1. A row with an infinite or undefined number gets scale NaN and zeros, so that whatever
    is computed from it is NaN too.

    Args:
        x: fp32 `[rows, inputs]`.

    Returns:
        int8 `[rows, inputs]` within [-127, 127], and fp32 `[rows]`.
    """
    if x.dim() != 2:
        raise ValueError(f"rows to quantize must be a matrix, not of shape {tuple(x.shape)}")
    library = native_library()
    if library is None or x.numel() == 0 or not is_plain(x):
        return _quantize_rows_reference(x)
    x = x.detach().contiguous()
    rows, inputs = x.shape
    q = torch.empty(rows, inputs, dtype=torch.int8)
    scale = torch.empty(rows)
    threads = torch.get_num_threads()
    library.posttrain_quantize_rows(x.data_ptr(), rows, inputs, q.data_ptr(), scale.data_ptr(), threads)
    return q, scale


def int8_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    dynamic: bool = False,
    input_scale: Tensor | None = None,
) -> Tensor:
    """`x @ (weight * scale[:, None]).T + bias`, with the weights read as int8.

    Native where it can be (CPU, fp32, contiguous weights), `int8_linear_reference` otherwise. With the native kernels
    the result of a row doesn't depend on the other rows of the call, to the bit; where activations are rounded that
    holds for the reference too, and both give the same bits.

    Differentiable with respect to `x` and `bias`; rounding the activations counts as the identity (straight-through,
    Bengio et al., 2013), clamping them lets no gradient through.

    Args:
        x: fp32 `[..., inputs]`.
        weight: int8 `[outputs, inputs]`.
        scale: fp32 `[outputs]`, of the weights.
        bias: fp32 `[outputs]`.
        dynamic: Quantize each row of `x` to int8, by its largest number, and accumulate in int32.
        input_scale: fp32 `[]`, positive: quantize all of `x` to int8 with this scale instead; what lies beyond +-127 of
            it is clamped. A row with an infinite or undefined number becomes NaN in both cases. Without either, `x`
            stays fp32.

    Returns:
        `[..., outputs]` in the type of `x`.

    Raises:
        ValueError: Shapes or types that don't belong together.
    """
    if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        result: Tensor = _Int8Linear.apply(x, weight, scale, bias, dynamic, input_scale)
        return result
    return _forward(x, weight, scale, bias, dynamic, input_scale)


def int8_linear_reference(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    dynamic: bool = False,
    input_scale: Tensor | None = None,
) -> Tensor:
    """What `int8_linear` computes, in torch operations only, on any device; same arguments."""
    _check(x, weight, scale, bias, input_scale)
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).float()
    if dynamic or input_scale is not None:
        q, row_scale = _quantize_rows_reference(rows, input_scale)
        y = _exact_product(q, weight).float() * row_scale[:, None] * scale
    else:
        y = rows @ weight.float().T * scale
    if bias is not None:
        y = y + bias
    return y.reshape(*x.shape[:-1], weight.shape[0]).to(x.dtype)


class _Int8Linear(torch.autograd.Function):
    """Gradients of `int8_linear` for the activations and the bias; the weights are fixed."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        dynamic: bool,
        input_scale: Tensor | None,
    ) -> Tensor:
        inside = None if input_scale is None else (x / input_scale).round().abs() <= 127
        ctx.save_for_backward(weight, scale, inside)
        return _forward(x, weight, scale, bias, dynamic, input_scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weight, scale, inside = ctx.saved_tensors
        to_x = (gradient * scale).to(gradient.dtype) @ weight.to(gradient.dtype) if ctx.needs_input_grad[0] else None
        if to_x is not None and inside is not None:
            to_x = to_x * inside
        to_bias = gradient.float().sum(tuple(range(gradient.dim() - 1))) if ctx.needs_input_grad[3] else None
        return to_x, None, None, to_bias, None, None


def _forward(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, dynamic: bool, input_scale: Tensor | None
) -> Tensor:
    library = native_library()
    if (
        library is None
        or not is_plain(x)
        or not (weight.is_cpu and weight.is_contiguous() and scale.is_cpu and scale.is_contiguous())
        or (bias is not None and not (bias.is_cpu and bias.is_contiguous()))
        or (input_scale is not None and not input_scale.is_cpu)
    ):
        return int8_linear_reference(x, weight, scale, bias, dynamic=dynamic, input_scale=input_scale)
    outputs, inputs = _check(x, weight, scale, bias, input_scale)
    if x.numel() == 0 or outputs == 0 or inputs > _MOST_NATIVE_INPUTS:
        return int8_linear_reference(x, weight, scale, bias, dynamic=dynamic, input_scale=input_scale)
    if not x.is_contiguous():
        x = x.contiguous()
    y = torch.empty((*x.shape[:-1], outputs))
    failed = library.posttrain_int8_linear(
        x.data_ptr(),
        x.numel() // inputs,
        inputs,
        weight.data_ptr(),
        scale.data_ptr(),
        None if bias is None else bias.data_ptr(),
        outputs,
        y.data_ptr(),
        dynamic,
        torch.get_num_threads(),
        None if input_scale is None else input_scale.data_ptr(),
    )
    if failed:
        raise MemoryError(f"no memory for the working copy of {x.numel()} activations")
    return y


def is_plain(x: Tensor) -> bool:
    """Whether `x` is ordinary fp32 memory of this process: no other device, no stand-in that a tracer made up."""
    return x.is_cpu and x.dtype is torch.float32 and type(x) in _ORDINARY and not torch.compiler.is_compiling()


_ORDINARY = (Tensor, torch.nn.Parameter)


def _check(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, input_scale: Tensor | None
) -> tuple[int, int]:
    """Outputs and inputs of the layer; the native kernels trust these shapes with raw memory."""
    if weight.dtype is not torch.int8 or weight.dim() != 2:
        raise ValueError(f"weight must be an int8 matrix, not {weight.dtype} of shape {tuple(weight.shape)}")
    outputs, inputs = weight.shape
    if x.dim() == 0 or x.shape[-1] != inputs:
        raise ValueError(f"activations of shape {tuple(x.shape)} don't fit weights of shape {tuple(weight.shape)}")
    if scale.dtype is not torch.float32 or scale.dim() != 1 or scale.shape[0] != outputs:
        raise ValueError(f"scale must be fp32 [{outputs}], not {scale.dtype} of shape {tuple(scale.shape)}")
    if bias is not None and (bias.dtype is not torch.float32 or bias.dim() != 1 or bias.shape[0] != outputs):
        raise ValueError(f"bias must be fp32 [{outputs}], not {bias.dtype} of shape {tuple(bias.shape)}")
    if input_scale is not None and (input_scale.dtype is not torch.float32 or input_scale.dim() != 0):
        raise ValueError(f"input_scale must be fp32 [], not {input_scale.dtype} of shape {tuple(input_scale.shape)}")
    return outputs, inputs


def _quantize_rows_reference(x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
    x = x.detach().float()
    scale = x.abs().amax(dim=-1) / 127 if x.shape[-1] else x.new_zeros(x.shape[0])
    finite = scale.isfinite()
    if given is not None:
        scale = given.expand_as(scale)
    scale = torch.where(scale == 0, 1.0, scale)
    q = torch.where(finite[:, None], x / scale[:, None], 0.0).round().clamp(-127, 127).to(torch.int8)
    return q, torch.where(finite, scale, torch.nan)


def _exact_product(q: Tensor, weight: Tensor) -> Tensor:
    """`q @ weight.T` of int8 matrices without rounding, at the speed of fp32 products."""
    total = torch.zeros(q.shape[0], weight.shape[0], dtype=torch.int64, device=q.device)
    for start in range(0, q.shape[1], _EXACT_INPUTS):
        piece = slice(start, start + _EXACT_INPUTS)
        total += (q[:, piece].float() @ weight[:, piece].float().T).long()
    return total
