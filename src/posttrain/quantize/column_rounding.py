"""Rounding a matrix one input at a time, each one's error made up for by the inputs that aren't rounded yet.

With the inputs' second moments H = 2/N X X^T, rounding column j of W by e changes the layer's outputs least when the
other columns move by -e H^-1[j, rest] / H^-1[j, j] (Hassibi and Stork, 1993; Frantar and Alistarh, 2022, "Optimal Brain
Compression", equation 3). Frantar et al., 2023, "GPTQ": the same order of columns for all rows; with the upper Cholesky
factor U of H^-1 (H^-1 = U^T U) that quotient is U[j, rest] / U[j, j] for all steps at once (section 3.3, step 3); and
columns are worked on in blocks, what lies right of a block being updated once by a product (step 2).

U is had without inverting H: turning H's rows and columns around, its lower Cholesky factor, turned back, is an upper
triangular R with H = R R^T, and U = R^-1.

Left out: rounding to anything but a `Grid`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from posttrain.core.errors import Failure
from posttrain.ops import affine
from posttrain.quantize.grid import Grid


@dataclass(frozen=True)
class Rounded:
    """A rounded matrix [outputs, inputs].

    Attributes:
        codes: uint8 [outputs, inputs], the columns in `order`.
        scale: float32 [outputs, groups].
        zero_point: int32 [outputs, groups].
        order: int64 [inputs], the input each column belongs to; None if they lie as they came.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    order: Tensor | None


def upper_factor(moments: Tensor, damping: float) -> Tensor:
    """U with U^T U = (H + d I)^-1, d being `damping` times the mean of H's diagonal.

    Where that isn't enough to make the matrix positive definite, d is raised tenfold until it is.

    Args:
        moments: H, [n, n], symmetric; of zeros alone it counts as the identity.
        damping: Positive.

    Raises:
        Failure: If H has entries that are no numbers.
    """
    mean = float(moments.diagonal().mean())
    if mean == 0:
        return torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
    while damping < 100:
        turned = moments.flip(0, 1)
        turned.diagonal().add_(damping * mean)
        lower, failed = torch.linalg.cholesky_ex(turned)
        if not failed:
            upper = lower.flip(0, 1)
            identity = torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
            return torch.linalg.solve_triangular(upper, identity, upper=True)
        damping *= 10
    raise Failure("The activations' second moments are not numbers that can be worked with.", "Check the model.")


def round_columns(
    matrix: Tensor,
    moments: Tensor,
    grid: Grid,
    *,
    damping: float = 0.01,
    by_importance: bool = True,
    static_groups: bool = True,
    block_size: int = 128,
) -> Rounded:
    """Round a matrix so that its products with the inputs change little.

    Args:
        matrix: W, float32 [outputs, inputs]. Matrices with the same inputs may be stacked: rows are independent.
        moments: H, float32 [inputs, inputs]; its scale doesn't matter. An input that was never seen is rounded to
            nearest.
        grid: What to round to.
        damping: Share of the mean diagonal added to the diagonal.
        by_importance: Round inputs with large second moments first, while most others can still make up for it
            (the authors' "act-order").
        static_groups: With `by_importance`, find the scales of neighbouring inputs beforehand; otherwise neighbours in
            the new order form a group, its scale is found when its turn comes, and the order must be kept. Without
            `by_importance` scales are always found when their turn comes.
        block_size: Columns updated together; speed only.

    Raises:
        Failure: See `upper_factor`.
    """
    inputs = matrix.shape[1]
    order = moments.diagonal().argsort(descending=True, stable=True) if by_importance else None
    given = grid.parameters(matrix) if by_importance and static_groups else None
    if order is not None:
        matrix, moments = matrix[:, order], moments[order][:, order]
    upper = upper_factor(moments, damping)
    columns = matrix.T.contiguous()  # [inputs, outputs]: a column of W is contiguous
    lowest, highest = affine.quantization_range(grid.bits, grid.symmetric, signed=False)
    width, groups = grid.width(inputs), grid.groups(inputs)
    scales = matrix.new_empty(groups, len(matrix))
    zero_points = torch.empty_like(scales)
    if given is not None:
        scales, zero_points = given[0].T.contiguous(), given[1].T.float().contiguous()
    group_of = (torch.arange(inputs) if order is None or given is None else order.cpu()) // width
    codes = torch.empty_like(columns, dtype=torch.uint8)
    # Blocks don't cross a group's end then, so where a group begins, all earlier errors have reached its columns.
    for start, end in _blocks(inputs, inputs if given is not None else width, block_size):
        if given is None and start % width == 0:
            group = start // width
            found = grid.parameters(columns[start : start + width].T)
            scales[group], zero_points[group] = found[0][:, 0], found[1][:, 0]
        factors = upper[start:end, start:end]
        block, errors = columns[start:end], torch.empty_like(columns[start:end])
        for j in range(end - start):
            group = int(group_of[start + j])
            column, scale, zero_point = block[j], scales[group], zero_points[group]
            code = (column / scale).add_(zero_point).round_().clamp_(lowest, highest)
            codes[start + j] = code
            error = torch.sub(column, code.sub_(zero_point).mul_(scale), out=errors[j]).div_(factors[j, j])
            block[j + 1 :].addr_(factors[j, j + 1 :], error, alpha=-1)
        columns[end:].addmm_(upper[start:end, end:].T, errors, alpha=-1)
    codes, keeps = codes.T.contiguous(), order
    if order is not None and given is not None:  # groups are neighbours in the inputs' own order
        codes, keeps = codes[:, order.argsort()], None
    return Rounded(codes, scales.T.contiguous(), zero_points.T.to(torch.int32), keeps)


def _blocks(inputs: int, width: int, size: int) -> list[tuple[int, int]]:
    """The columns of each group of `width` in blocks of at most `size`: (start, end)."""
    starts = [start for first in range(0, inputs, width) for start in range(first, min(first + width, inputs), size)]
    return list(pairwise([*starts, inputs]))
