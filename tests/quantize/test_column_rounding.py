"""Column rounding: by hand, against a plain loop of optimal brain quantization, and against rounding to nearest.

Hand-worked: W = (1.4, 0.6), grid of step 1 (codes -1, 0, 1, 2 by zero-point 1), H = ((2, 1), (1, 1)).
H^-1 = ((1, -1), (-1, 2)). Column 0: 1.4 -> 1, error 0.4; the other moves by -0.4 * H^-1[0, 1] / H^-1[0, 0] = +0.4, to
1.0, so it is rounded to 1. To nearest it would be 1 too; W = (1.4, 0.2) shows the difference: 0.2 + 0.4 = 0.6 -> 1, not
0. Errors e of the two ways are (0.4, -0.8) and (0.4, 0.2), and 2 e0^2 + 2 e0 e1 + e1^2 is 0.32 for the first and 0.52
for the second.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from posttrain.core.errors import Failure
from posttrain.quantize.column_rounding import Rounded, round_columns, upper_factor
from posttrain.quantize.grid import Grid


class _Steps(Grid):
    """Step 1 and zero-point 1 for whatever weights: codes stand for -1, 0, 1, 2."""

    def parameters(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones(len(matrix), 1), torch.ones(len(matrix), 1, dtype=torch.int32)


def _problem(outputs: int, inputs: int, tokens: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, correlated inputs of unequal size [tokens, inputs], their second moments."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator)
    x = torch.randn(tokens, inputs, generator=generator) @ torch.randn(inputs, inputs, generator=generator)
    x = x * torch.rand(inputs, generator=generator)
    return weight, x, 2 / tokens * x.T @ x


def _matrix(rounded: Rounded, grid: Grid) -> Tensor:
    matrix = grid.values(rounded.codes, rounded.scale, rounded.zero_point)
    return matrix if rounded.order is None else matrix[:, rounded.order.argsort()]


def _nearest(weight: Tensor, grid: Grid) -> Tensor:
    scale, zero_point = grid.parameters(weight)
    return grid.values(grid.codes(weight, scale, zero_point), scale, zero_point)


def _one_by_one(weight: Tensor, moments: Tensor, grid: Grid, damping: float, order: list[int], static: bool) -> Tensor:
    """Optimal brain quantization in a fixed order, float64: round a column, correct the rest, strike it from H.

    H^-1 of what is left follows from the old one by one step of Gaussian elimination (Frantar and Alistarh, 2022,
    equation 4).
    """
    weight, moments = weight.double()[:, order], moments.double()[order][:, order]
    inverse = (moments + damping * moments.diagonal().mean() * torch.eye(len(moments))).inverse()
    width, result = grid.width(len(order)), torch.empty_like(weight)
    given = grid.parameters(weight[:, torch.tensor(order).argsort()].float())
    for j in range(len(order)):
        if static:
            scale, zero_point = (part[:, order[j] // width].double() for part in given)
        elif j % width == 0:
            scale, zero_point = (part[:, 0].double() for part in grid.parameters(weight[:, j : j + width].float()))
        codes = (weight[:, j] / scale + zero_point).round().clamp(1 if grid.symmetric else 0, (1 << grid.bits) - 1)
        result[:, j] = (codes - zero_point) * scale
        error = (weight[:, j] - result[:, j]) / inverse[j, j]
        weight = weight - error[:, None] * inverse[j]
        inverse = inverse - inverse[:, j : j + 1] * inverse[j : j + 1] / inverse[j, j]
    return result[:, torch.tensor(order).argsort()].float()


def test_by_hand() -> None:
    moments = torch.tensor([[2.0, 1.0], [1.0, 1.0]])
    grid = _Steps(2, None, symmetric=False)
    rounded = round_columns(torch.tensor([[1.4, 0.6], [1.4, 0.2]]), moments, grid, damping=1e-9, by_importance=False)
    assert _matrix(rounded, grid).tolist() == [[1, 1], [1, 1]]
    assert _nearest(torch.tensor([[1.4, 0.2]]), grid).tolist() == [[1, 0]]


def test_the_factor_is_that_of_the_inverse() -> None:
    """H = ((4, 2), (2, 2)): H^-1 = ((0.5, -0.5), (-0.5, 1)) = U^T U with U = sqrt(0.5) ((1, -1), (0, 1))."""
    upper = upper_factor(torch.tensor([[4.0, 2.0], [2.0, 2.0]]), damping=1e-9)
    torch.testing.assert_close(upper, 0.5**0.5 * torch.tensor([[1.0, -1.0], [0.0, 1.0]]))
    _, _, moments = _problem(1, 40, 200)
    upper = upper_factor(moments, damping=0.01)
    assert torch.equal(upper, upper.triu())
    damped = moments.double() + 0.01 * moments.diagonal().mean() * torch.eye(40)
    torch.testing.assert_close((upper.T @ upper).double(), damped.inverse(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("group_size", "block_size"), [(None, 7), (8, 128), (16, 5), (10, 1), (32, 32)])
@pytest.mark.parametrize(("by_importance", "static"), [(False, False), (True, True), (True, False)])
def test_agrees_with_one_by_one(
    symmetric: bool, group_size: int | None, block_size: int, by_importance: bool, static: bool
) -> None:
    """However the columns are blocked; a code may differ where a weight lands on the boundary between two."""
    weight, _, moments = _problem(12, 32, 300)
    grid = Grid(3, group_size, symmetric)
    rounded = round_columns(
        weight,
        moments,
        grid,
        damping=0.02,
        by_importance=by_importance,
        static_groups=static,
        block_size=block_size,
    )
    order = moments.diagonal().argsort(descending=True).tolist() if by_importance else list(range(32))
    expected = _one_by_one(weight, moments, grid, 0.02, order, static)
    assert (rounded.order is None) == (static or not by_importance)
    same = torch.isclose(_matrix(rounded, grid), expected, rtol=1e-3, atol=1e-3).all(1)
    assert same.double().mean() >= 11 / 12


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("options", [{}, {"by_importance": False}, {"static_groups": False}])
def test_outputs_change_less_than_by_rounding_to_nearest(bits: int, options: dict[str, bool]) -> None:
    weight, x, moments = _problem(48, 96, 1000)
    grid = Grid(bits, 32, symmetric=False)
    rounded = _matrix(round_columns(weight, moments, grid, **options), grid)
    ours, nearest = (((weight - other) @ x.T).square().sum() for other in (rounded, _nearest(weight, grid)))
    assert ours < (0.9 if bits == 2 else 0.7) * nearest


def test_what_was_never_seen_is_rounded_to_nearest() -> None:
    weight, x, _ = _problem(6, 24, 100)
    x[:, [3, 10]] = 0
    grid = Grid(4, 8, symmetric=False)
    for options in ({}, {"by_importance": False}):
        rounded = _matrix(round_columns(weight, x.T @ x, grid, **options), grid)
        if not options:  # scales are found beforehand
            assert torch.equal(rounded[:, [3, 10]], _nearest(weight, grid)[:, [3, 10]])
        unseen = round_columns(weight, torch.zeros(24, 24), grid, **options)
        assert torch.equal(_matrix(unseen, grid), _nearest(weight, grid))


def test_independent_inputs_are_rounded_to_nearest() -> None:
    """With a diagonal H there is nothing to make up for."""
    weight, _, _ = _problem(6, 24, 100)
    moments = torch.diag(torch.rand(24, generator=torch.Generator().manual_seed(1)) + 0.1)
    grid = Grid(4, 8, symmetric=False)
    assert torch.equal(_matrix(round_columns(weight, moments, grid), grid), _nearest(weight, grid))


def test_stacked_matrices_are_rounded_independently() -> None:
    weight, _, moments = _problem(20, 32, 300)
    grid = Grid(4, 16, symmetric=False)
    together = round_columns(weight, moments, grid)
    parts = [round_columns(part, moments, grid) for part in weight.split(10)]
    assert (torch.cat([part.codes for part in parts]) == together.codes).double().mean() > 0.99
    assert torch.equal(torch.cat([part.scale for part in parts]), together.scale)


def test_more_damping_where_it_is_needed() -> None:
    """Fewer tokens than inputs leave H singular; far too little damping is raised until it works."""
    weight, _, moments = _problem(4, 64, 3)
    rounded = round_columns(weight, moments, Grid(4, 32, symmetric=False), damping=1e-12)
    assert _matrix(rounded, Grid(4, 32, symmetric=False)).isfinite().all()


def test_moments_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(Failure, match="not numbers"):
        upper_factor(torch.full((4, 4), torch.nan), damping=0.01)


def test_the_weights_are_left_alone() -> None:
    weight, _, moments = _problem(4, 16, 100)
    before = weight.clone(), moments.clone()
    round_columns(weight, moments, Grid(4, 8, symmetric=False), by_importance=False)
    assert torch.equal(weight, before[0])
    assert torch.equal(moments, before[1])
