"""The grid of weights: scales by hand, bounds on errors, and what half precision does to a scale."""

from __future__ import annotations

import pytest
import torch

from posttrain.quantize.grid import Grid


def test_groups() -> None:
    grid = Grid(4, 64, symmetric=True)
    assert (grid.width(576), grid.groups(576)) == (64, 9)
    assert (grid.width(100), grid.groups(100)) == (64, 2)
    assert (grid.width(10), grid.groups(10)) == (10, 1)
    assert (Grid(4, None, True).width(576), Grid(4, None, True).groups(576)) == (576, 1)


def test_by_hand() -> None:
    """2 bits. Symmetric: 1.5 is the largest, codes 1 … 3 around 2, so the step is 1.5: 0.7 -> 0, 0.8 -> 1.5.

    Fitted, group (-1, 2): step 3/3 = 1, zero-point 1, so 0.4 -> 0; (0.5, 1.5): widened to zero, step 0.5, so 0.9 -> 1.
    """
    symmetric = Grid(2, 3, symmetric=True)
    matrix = torch.tensor([[1.5, 0.7, 0.8]])
    scale, zero_point = symmetric.parameters(matrix)
    assert (scale.tolist(), zero_point.tolist()) == ([[1.5]], [[2]])
    assert symmetric.codes(matrix, scale, zero_point).tolist() == [[3, 2, 3]]
    fitted = Grid(2, 3, symmetric=False)
    matrix = torch.tensor([[-1, 2, 0.4, 0.5, 1.5, 0.9]])
    scale, zero_point = fitted.parameters(matrix)
    assert (scale.tolist(), zero_point.tolist()) == ([[1, 0.5]], [[1, 0]])
    codes = fitted.codes(matrix, scale, zero_point)
    assert codes.tolist() == [[0, 3, 1, 1, 3, 2]]
    assert fitted.values(codes, scale, zero_point).tolist() == [[-1, 2, 0, 0.5, 1.5, 1]]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_errors_are_at_most_half_a_step(bits: int, symmetric: bool) -> None:
    """Also for groups of tiny, mixed and one-sided numbers, where half precision is coarse."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(64, 100, generator=generator) * 10.0 ** torch.arange(-7, 1).repeat(8)[:, None]
    matrix[::7] = matrix[::7].abs()
    matrix[3, :32] = 0
    for group_size in (32, 7, None):
        grid = Grid(bits, group_size, symmetric)
        scale, zero_point = grid.parameters(matrix)
        assert torch.equal(scale, scale.half().float())
        assert (scale > 0).all()
        codes = grid.codes(matrix, scale, zero_point)
        error = (grid.values(codes, scale, zero_point) - matrix).abs()
        step = scale.repeat_interleave(grid.width(100), 1)[:, :100]
        assert (error <= step / 2 * (1 + 1e-5)).all()
        assert int(codes.max()) < 1 << bits


def test_scales_are_rounded_up() -> None:
    """(1 + 2^-11) lies between the half-precision 1 and 1 + 2^-10: down, the largest weight would be out of reach."""
    scale, _ = Grid(2, None, symmetric=True).parameters(torch.tensor([[1 + 2**-11, 0.3], [1.0, 0.5], [1e-9, 0.0]]))
    assert scale.tolist() == [[1 + 2**-10], [1.0], [2.0**-24]]


def test_too_large_for_half_precision_is_infinite() -> None:
    scale, _ = Grid(4, None, symmetric=True).parameters(torch.tensor([[1e6, 1.0]]))
    assert scale.isinf().all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_clipping_leaves_less_squared_error(symmetric: bool) -> None:
    """In every group, and much less where one outlier stretches the range."""
    matrix = torch.randn(40, 128, generator=torch.Generator().manual_seed(0))
    matrix[:, 0] = 6
    errors = []
    for clipping in (False, True):
        grid = Grid(3, 64, symmetric, clipping)
        scale, zero_point = grid.parameters(matrix)
        rounded = grid.values(grid.codes(matrix, scale, zero_point), scale, zero_point)
        errors.append((rounded - matrix).square().unflatten(1, (2, 64)).sum(2))
    assert (errors[1] <= errors[0]).all()
    assert errors[1].sum() < 0.9 * errors[0].sum()
