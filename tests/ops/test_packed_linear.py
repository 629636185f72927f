"""Layers of 1 to 8 bits: against a float64 product with the unpacked matrix, whatever the width, shape and processor.

Hand-worked layer of 4 bits in groups of 2, three inputs: codes [[15, 8, 3], [0, 7, 9]], packed to bytes 8*16 + 15 = 143
and 3, 7*16 = 112 and 9; scales [[0.5, 2], [1, 0.25]]; zero-points [[8, 1], [0, 9]] packed to 24 and 144. The matrix is
    0.5 * (15 - 8), 0.5 * (8 - 8), 2 * (3 - 1)   = 3.5, 0, 4
    1 * (0 - 0),    1 * (7 - 0),   0.25 * (9 - 9) = 0, 7, 0
and without zero-points, which stands for 8 everywhere: 3.5, 0, -10 and -8, -1, 0.25.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from posttrain.ops import affine, kernels
from posttrain.ops.packed_linear import packed_linear, packed_linear_reference, packed_weight

CODES = torch.tensor([[143, 3], [112, 9]], dtype=torch.uint8)
SCALE = torch.tensor([[0.5, 2], [1, 0.25]], dtype=torch.float16)
ZERO_POINT = torch.tensor([[24], [144]], dtype=torch.uint8)

# inputs: less than eight, parts of the 32 that 4-bit codes are decoded by, several groups and a rest
SHAPES = [(1, 1), (7, 4), (16, 3), (37, 5), (64, 33), (96, 37), (576, 131), (1029, 7)]
ROWS = [1, 2, 3, 4, 7, 65]

needs_native = pytest.mark.skipif(not kernels.available(), reason="the native kernels are not built here")


@pytest.fixture(params=["reference", "sse2", "avx2", "avx512"])
def computed_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Runs a test with torch alone and with each instruction set of this processor."""
    if request.param == "reference":
        monkeypatch.setattr(kernels, "native_library", lambda: None)
        yield request.param
        return
    if not kernels.available():
        pytest.skip("the native kernels are not built here")
    try:
        kernels.select_instruction_set(request.param)
    except ValueError as lacking:
        pytest.skip(str(lacking))
    yield request.param
    kernels.select_instruction_set(None)


def layer(inputs: int, outputs: int, bits: int, group_size: int, zeros: bool) -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(inputs + bits)
    groups = -(-inputs // group_size)

    def codes(count: int) -> Tensor:
        return affine.pack(torch.randint(0, 1 << bits, (outputs, count), generator=generator, dtype=torch.uint8), bits)

    return {
        "codes": codes(inputs),
        "scale": (torch.rand(outputs, groups, generator=generator) * 0.02 + 0.001).half(),
        "zero_point": codes(groups) if zeros else None,
        "bias": torch.randn(outputs, generator=generator),
    }


def activations(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def matrix(parts: dict[str, Tensor | None], inputs: int, bits: int, group_size: int) -> Tensor:
    arguments = {key: value for key, value in parts.items() if key != "bias"}
    return packed_weight(**arguments, bits=bits, group_size=group_size, inputs=inputs)


def test_hand_worked_layer(computed_by: str) -> None:
    options = {"bits": 4, "group_size": 2}
    fitted = packed_weight(CODES, SCALE, ZERO_POINT, **options, inputs=3)
    assert fitted.tolist() == [[3.5, 0, 4], [0, 7, 0]]
    assert packed_weight(CODES, SCALE, None, **options, inputs=3).tolist() == [[3.5, 0, -10], [-8, -1, 0.25]]
    x = torch.tensor([2.0, 1.0, -1.0])
    bias = torch.tensor([0.5, 0.0])
    assert packed_linear(x, CODES, SCALE, ZERO_POINT, bias, **options).tolist() == [3.5, 7]
    assert packed_linear(x, CODES, SCALE, None, bias, **options).tolist() == [17.5, -17.25]


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("group_size", [8, 32, 40, 64, 0])
def test_agrees_with_float64(computed_by: str, bits: int, group_size: int) -> None:
    """0 stands for one group a row. At most `inputs` roundings of 2^-24, and the matrix itself is exact."""
    for inputs, outputs in SHAPES:
        for zeros in (True, False):
            width = group_size or inputs
            parts = layer(inputs, outputs, bits, width, zeros)
            dense = matrix(parts, inputs, bits, width).double()
            for rows in ROWS:
                x = activations(rows, inputs)
                y = packed_linear(x, **parts, bits=bits, group_size=width)
                expected = x.double() @ dense.T + parts["bias"].double()
                terms = x.double().abs() @ dense.abs().T + parts["bias"].double().abs()
                assert y.shape == (rows, outputs)
                assert ((y - expected).abs() <= (inputs + 4) * 2.0**-24 * terms).all()


@pytest.mark.parametrize("bits", range(1, 9))
def test_one_input_at_a_time_gives_the_matrix_exactly(computed_by: str, bits: int) -> None:
    """The unit vectors pick columns: scale times code has at most 20 significant bits, so nothing is rounded."""
    for group_size in (16, 32, 70):
        parts = {**layer(70, 9, bits, group_size, zeros=True), "bias": None}
        dense = matrix(parts, 70, bits, group_size)
        assert torch.equal(packed_linear(torch.eye(70), **parts, bits=bits, group_size=group_size), dense.T)


@pytest.mark.parametrize("group_size", [3, 12])
def test_groups_that_start_inside_a_byte_go_to_torch(computed_by: str, group_size: int) -> None:
    parts = layer(50, 6, 3, group_size, zeros=True)
    x = activations(4, 50)
    expected = packed_linear_reference(x, **parts, bits=3, group_size=group_size)
    assert torch.equal(packed_linear(x, **parts, bits=3, group_size=group_size), expected)


@needs_native
@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("inputs, outputs, group_size", [(576, 131, 64), (70, 37, 32), (1029, 8, 1029), (96, 5, 24)])
def test_a_row_does_not_depend_on_the_others(
    computed_by: str, bits: int, inputs: int, outputs: int, group_size: int
) -> None:
    """Bit for bit, also where few rows are decoded in registers and many through an expanded strip."""
    if computed_by == "reference":
        pytest.skip("torch's fp32 product makes no such promise")
    parts = layer(inputs, outputs, bits, group_size, zeros=True)
    x = activations(210, inputs)  # more than one panel of rows
    alone = torch.cat([packed_linear(row[None], **parts, bits=bits, group_size=group_size) for row in x])
    for rows in (2, 3, 4, 5, 16, 210):
        assert torch.equal(packed_linear(x[:rows], **parts, bits=bits, group_size=group_size), alone[:rows])


@needs_native
@pytest.mark.parametrize("bits", [4, 5])
def test_the_number_of_threads_changes_no_bit(bits: int) -> None:
    parts = layer(576, 203, bits, 64, zeros=True)
    x = activations(65, 576)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(packed_linear(x, **parts, bits=bits, group_size=64))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("bits", [4, 6])
def test_memory_around_the_activations_is_not_read(computed_by: str, bits: int) -> None:
    parts = layer(45, 11, bits, 45, zeros=True)
    surrounded = torch.full((9, 45), torch.nan)
    surrounded[3:6] = activations(3, 45)
    y = packed_linear(surrounded[3:6], **parts, bits=bits, group_size=45)
    torch.testing.assert_close(y, packed_linear(activations(3, 45), **parts, bits=bits, group_size=45))


def test_subnormal_and_extreme_scales(computed_by: str) -> None:
    """2^-24 is the smallest half-precision number, 65504 the largest."""
    parts = layer(64, 4, 4, 64, zeros=True)
    parts["scale"] = torch.tensor([[2.0**-24], [3 * 2.0**-24], [65504.0], [2.0**-14]], dtype=torch.float16)
    parts["bias"] = None
    found = packed_linear(torch.eye(64), **parts, bits=4, group_size=64)
    assert torch.equal(found, matrix(parts, 64, 4, 64).T)


def test_strided_and_empty_activations(computed_by: str) -> None:
    parts = layer(48, 10, 4, 16, zeros=True)
    x = activations(48, 2, 5).permute(2, 1, 0)
    expected = packed_linear(x.contiguous(), **parts, bits=4, group_size=16)
    assert expected.shape == (5, 2, 10)
    assert torch.equal(packed_linear(x, **parts, bits=4, group_size=16), expected)
    assert packed_linear(torch.empty(2, 0, 48), **parts, bits=4, group_size=16).shape == (2, 0, 10)


def test_gradients_are_those_of_the_dense_layer(computed_by: str) -> None:
    parts = layer(24, 6, 4, 8, zeros=True)
    bias = parts["bias"].requires_grad_()
    x, upstream = activations(2, 3, 24).requires_grad_(), activations(2, 3, 6, seed=3)
    y = packed_linear(x, **parts, bits=4, group_size=8)
    got = torch.autograd.grad(y, (x, bias), upstream)
    dense = torch.nn.functional.linear(x, matrix(parts, 24, 4, 8), bias)
    torch.testing.assert_close(got, torch.autograd.grad(dense, (x, bias), upstream))


def test_other_number_types_keep_theirs(computed_by: str) -> None:
    parts = layer(64, 5, 4, 32, zeros=True)
    x = activations(3, 64).bfloat16()
    y = packed_linear(x, **parts, bits=4, group_size=32)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, packed_linear_reference(x.float(), **parts, bits=4, group_size=32).bfloat16())


def test_tensors_without_memory_go_to_torch(computed_by: str) -> None:
    parts = layer(16, 4, 4, 8, zeros=True)
    on_meta = {key: value.to("meta") for key, value in parts.items()}
    assert packed_linear(activations(2, 16).to("meta"), **on_meta, bits=4, group_size=8).shape == (2, 4)
    with FakeTensorMode() as mode:
        stand_ins = {key: mode.from_tensor(value) for key, value in parts.items()}
        assert packed_linear(mode.from_tensor(activations(2, 16)), **stand_ins, bits=4, group_size=8).shape == (2, 4)


def test_shapes_that_do_not_fit_are_refused(computed_by: str) -> None:
    parts = layer(16, 4, 4, 8, zeros=True)
    x = activations(2, 16)
    wrong: list[tuple[Tensor, dict[str, Tensor | None], dict[str, int]]] = [
        (activations(2, 19), parts, {}),
        (torch.tensor(1.0), parts, {}),
        (x, {**parts, "codes": parts["codes"].to(torch.int8)}, {}),
        (x, {**parts, "codes": parts["codes"][:, :7]}, {}),
        (x, {**parts, "scale": parts["scale"][:, :1]}, {}),
        (x, {**parts, "scale": parts["scale"][:3]}, {}),
        (x, {**parts, "zero_point": parts["zero_point"][:, :0]}, {}),
        (x, {**parts, "bias": parts["bias"][:3]}, {}),
        (x, parts, {"bits": 9}),
        (x, parts, {"bits": 3}),
        (x, parts, {"group_size": 0}),
        (x, parts, {"group_size": 4}),
    ]
    for activation, given, options in wrong:
        with pytest.raises(ValueError, match="must"):
            packed_linear(activation, **given, **{"bits": 4, "group_size": 8, **options})
