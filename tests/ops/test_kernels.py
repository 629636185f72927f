"""int8 linear layers: against a float64 product, against torch, and bit for bit across blockings and instruction sets.

Hand-worked row: x = [127, -63.5, 0.4] has scale 127 / 127 = 1 and quantizes to [127, -64, 0]: -63.5 ties to the even
-64. With weights [[2, 1, 5], [-3, 0, 1]], scales [0.5, 2] and bias [1, 0]:
    integer sums  127 * 2 - 64 = 190,  127 * -3 = -381
    outputs       190 * 0.5 + 1 = 96,  -381 * 2 = -762
and with fp32 activations
    sums          254 - 63.5 + 2 = 192.5,  -381 + 0.4 = -380.6
    outputs       97.25,  -761.2
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from posttrain.ops import kernels

INSTRUCTION_SETS = ["sse2", "avx2", "avx512"]
ROWS = [1, 3, 4, 7, 17, 65]
# inputs: below a vector, one more or less than each vector, several vectors and a rest; outputs: not multiples of four
SHAPES = [(1, 1), (5, 3), (16, 4), (17, 33), (31, 2), (63, 9), (64, 32), (65, 37), (1029, 7), (576, 131)]

needs_native = pytest.mark.skipif(not kernels.available(), reason="the native kernels are not built here")


@pytest.fixture(params=["reference", *INSTRUCTION_SETS])
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


def layer(inputs: int, outputs: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8, generator=generator)
    scale = torch.rand(outputs, generator=generator) * 0.02 + 0.001
    return weight, scale, torch.randn(outputs, generator=generator)


def activations(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, *, dynamic: bool) -> tuple[Tensor, Tensor]:
    """Float64 result, and the sum of the absolute terms that rounding errors are relative to."""
    x = x.double()
    if dynamic:
        row_scale = (x.float().abs().amax(1) / 127).double()
        row_scale[row_scale == 0] = 1
        x = (x.float() / row_scale.float()[:, None]).double().round() * row_scale[:, None]
    dense = weight.double() * scale.double()[:, None]
    y, terms = x @ dense.T, x.abs() @ dense.abs().T
    if bias is not None:
        y, terms = y + bias.double(), terms + bias.double().abs()
    return y, terms


@pytest.mark.parametrize("dynamic, expected", [(True, [96.0, -762.0]), (False, [97.25, -761.2])])
def test_hand_worked_row(computed_by: str, dynamic: bool, expected: list[float]) -> None:
    x = torch.tensor([127, -63.5, 0.4])
    weight = torch.tensor([[2, 1, 5], [-3, 0, 1]], dtype=torch.int8)
    y = kernels.int8_linear(x, weight, torch.tensor([0.5, 2.0]), torch.tensor([1.0, 0.0]), dynamic=dynamic)
    torch.testing.assert_close(y, torch.tensor(expected))


def test_hand_worked_quantization(computed_by: str) -> None:
    q, scale = kernels.quantize_rows(torch.tensor([[127, -63.5, 0.4], [0, 0, 0], [-2.54, 1.27, 0.02]]))
    assert q.dtype == torch.int8
    assert q.tolist() == [[127, -64, 0], [0, 0, 0], [-127, 64, 1]]  # 1.27 / 0.02 = 63.5, to the even 64
    torch.testing.assert_close(scale, torch.tensor([1.0, 1.0, 0.02]))


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("inputs, outputs", SHAPES)
def test_agrees_with_float64(computed_by: str, inputs: int, outputs: int, dynamic: bool) -> None:
    weight, scale, bias = layer(inputs, outputs)
    for rows in ROWS:
        x = activations(rows, inputs)
        for addend in (bias, None):
            y = kernels.int8_linear(x, weight, scale, addend, dynamic=dynamic)
            expected, terms = exact(x, weight, scale, addend, dynamic=dynamic)
            # fp32 activations: at most `inputs` roundings of 2^-24; integer sums: only the four of the last step
            roundings = 4 if dynamic else inputs + 4
            assert y.shape == (rows, outputs)
            assert ((y - expected).abs() <= roundings * 2.0**-23 * terms).all()


@needs_native
@pytest.mark.parametrize("inputs, outputs", SHAPES)
def test_dynamic_gives_the_same_bits_on_every_instruction_set(computed_by: str, inputs: int, outputs: int) -> None:
    weight, scale, bias = layer(inputs, outputs)
    for rows in ROWS:
        x = activations(rows, inputs) * 10.0 ** activations(rows, 1, seed=2)
        y = kernels.int8_linear(x, weight, scale, bias, dynamic=True)
        assert torch.equal(y, kernels.int8_linear_reference(x, weight, scale, bias, dynamic=True))


@pytest.mark.parametrize("inputs", [1, 33, 1000, 1536])
def test_quantized_rows_are_the_same_bits_everywhere_and_within_half_a_step(computed_by: str, inputs: int) -> None:
    x = activations(129, inputs) * 100
    q, scale = kernels.quantize_rows(x)
    assert torch.equal(scale, x.abs().amax(1) / 127)
    assert torch.equal(q, torch.round(x / scale[:, None]).to(torch.int8))
    assert ((q * scale[:, None] - x).abs() <= 0.5001 * scale[:, None]).all()


@pytest.mark.parametrize("x_sign, w_value", [(1, 127), (-1, 127), (1, -127), (1, -128), (-1, -128)])
def test_extremes_neither_overflow_nor_saturate(computed_by: str, x_sign: int, w_value: int) -> None:
    """Every product at its largest: two of them don't fit int16, and 4099 of them need 27 bits."""
    inputs = 4099
    x = torch.full((5, inputs), x_sign * 127.0)  # scale 1, all +-127
    weight = torch.full((6, inputs), w_value, dtype=torch.int8)
    y = kernels.int8_linear(x, weight, torch.ones(6), None, dynamic=True)
    assert torch.equal(y, torch.full((5, 6), float(x_sign * 127 * w_value * inputs)))


@pytest.mark.parametrize("w_value", [127, -128])
def test_the_longest_native_row_and_one_beyond(computed_by: str, w_value: int) -> None:
    """2^17 - 1 times 127 * -128 is -2,130,690,176; int32 ends at -2,147,483,648. Longer rows must not wrap around."""
    for inputs in (2**17 - 1, 2**17 + 2048):
        x = torch.full((1, inputs), 127.0)
        weight = torch.full((1, inputs), w_value, dtype=torch.int8)
        y = kernels.int8_linear(x, weight, torch.ones(1), None, dynamic=True)
        assert torch.equal(y, torch.tensor([[float(127 * w_value * inputs)]]))


@pytest.mark.parametrize("dynamic", [True, False])
def test_rows_of_zeros_give_the_bias(computed_by: str, dynamic: bool) -> None:
    weight, scale, bias = layer(70, 9)
    x = activations(6, 70)
    x[[0, 3]] = 0
    y = kernels.int8_linear(x, weight, scale, bias, dynamic=dynamic)
    assert torch.equal(y[0], bias)
    assert torch.equal(y[3], bias)
    assert y.isfinite().all()


def test_numbers_too_small_for_a_scale(computed_by: str) -> None:
    """1e-44 / 127 rounds to 0 in fp32: no division by it, the row counts as zeros."""
    weight, scale, _ = layer(8, 3)
    y = kernels.int8_linear(torch.full((2, 8), 1e-44), weight, scale, None, dynamic=True)
    assert torch.equal(y, torch.zeros(2, 3))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_broken_row_is_broken_in_the_output_and_spoils_no_other(computed_by: str, bad: float) -> None:
    weight, scale, bias = layer(40, 5)
    x = activations(4, 40)
    intact = kernels.int8_linear(x, weight, scale, bias, dynamic=True)
    x[2, 39] = bad
    y = kernels.int8_linear(x, weight, scale, bias, dynamic=True)
    assert y[2].isnan().all()
    others = [0, 1, 3]
    assert torch.equal(y[others], intact[others])


@needs_native
@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("inputs, outputs", [(576, 131), (70, 37), (1029, 8)])
def test_a_row_does_not_depend_on_the_others(computed_by: str, inputs: int, outputs: int, dynamic: bool) -> None:
    if computed_by == "reference" and not dynamic:
        pytest.skip("torch's fp32 product makes no such promise")
    weight, scale, bias = layer(inputs, outputs)
    x = activations(210, inputs)  # more than one panel of rows
    alone = torch.cat([kernels.int8_linear(row[None], weight, scale, bias, dynamic=dynamic) for row in x])
    for rows in (2, 3, 5, 16, 65, 210):
        together = kernels.int8_linear(x[:rows], weight, scale, bias, dynamic=dynamic)
        assert torch.equal(together, alone[:rows])


@needs_native
@pytest.mark.parametrize("dynamic", [True, False])
def test_the_number_of_threads_changes_no_bit(dynamic: bool) -> None:
    weight, scale, bias = layer(576, 203)
    x = activations(65, 576)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(kernels.int8_linear(x, weight, scale, bias, dynamic=dynamic))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("dynamic", [True, False])
def test_strided_inputs_and_weights(computed_by: str, dynamic: bool) -> None:
    weight, scale, bias = layer(48, 10)
    x = activations(48, 2, 5).permute(2, 1, 0)  # [5, 2, 48], inputs not adjacent in memory
    expected = kernels.int8_linear(x.contiguous(), weight, scale, bias, dynamic=dynamic)
    assert expected.shape == (5, 2, 10)
    assert torch.equal(kernels.int8_linear(x, weight, scale, bias, dynamic=dynamic), expected)
    strided = weight.T.contiguous().T
    assert not strided.is_contiguous()
    torch.testing.assert_close(kernels.int8_linear(x, strided, scale, bias, dynamic=dynamic), expected)


@pytest.mark.parametrize("dynamic", [True, False])
def test_an_offset_view_stays_inside_its_memory(computed_by: str, dynamic: bool) -> None:
    """The last rows of a larger matrix, whose neighbours in memory are NaN: reading past an end would show."""
    weight, scale, bias = layer(45, 11)
    surrounded = torch.full((9, 45), torch.nan)
    surrounded[3:6] = activations(3, 45)
    y = kernels.int8_linear(surrounded[3:6], weight, scale, bias, dynamic=dynamic)
    torch.testing.assert_close(y, kernels.int8_linear(activations(3, 45), weight, scale, bias, dynamic=dynamic))


@pytest.mark.parametrize("dynamic", [True, False])
def test_nothing_to_compute(computed_by: str, dynamic: bool) -> None:
    weight, scale, bias = layer(32, 5)
    assert kernels.int8_linear(torch.empty(0, 32), weight, scale, bias, dynamic=dynamic).shape == (0, 5)
    assert kernels.int8_linear(torch.empty(2, 0, 32), weight, scale, bias, dynamic=dynamic).shape == (2, 0, 5)
    no_inputs = kernels.int8_linear(torch.empty(3, 0), weight[:, :0], scale, bias, dynamic=dynamic)
    assert torch.equal(no_inputs, bias.expand(3, 5))
    q, row_scale = kernels.quantize_rows(torch.empty(0, 32))
    assert q.shape == (0, 32)
    assert row_scale.shape == (0,)


@pytest.mark.parametrize("dynamic", [True, False])
def test_gradients_are_those_of_the_dense_layer(computed_by: str, dynamic: bool) -> None:
    weight, scale, bias = layer(24, 6)
    x = activations(2, 3, 24).requires_grad_()
    bias.requires_grad_()
    upstream = activations(2, 3, 6, seed=3)
    got = torch.autograd.grad(kernels.int8_linear(x, weight, scale, bias, dynamic=dynamic), (x, bias), upstream)
    dense = torch.nn.functional.linear(x, weight.float() * scale[:, None], bias)
    expected = torch.autograd.grad(dense, (x, bias), upstream)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dynamic", [True, False])
def test_other_number_types_keep_theirs(computed_by: str, dynamic: bool) -> None:
    weight, scale, bias = layer(64, 5)
    x = activations(3, 64).bfloat16()
    y = kernels.int8_linear(x, weight, scale, bias, dynamic=dynamic)
    assert y.dtype == torch.bfloat16
    expected = kernels.int8_linear_reference(x.float(), weight, scale, bias, dynamic=dynamic)
    torch.testing.assert_close(y, expected.bfloat16())


@pytest.mark.parametrize("dynamic", [True, False])
def test_tensors_without_memory_go_to_torch(computed_by: str, dynamic: bool) -> None:
    """Shape propagation, as torch.export and empty-weights loading do it, must not reach raw pointers."""
    weight, scale, bias = layer(16, 4)
    on_meta = [tensor.to("meta") for tensor in (activations(2, 16), weight, scale, bias)]
    assert kernels.int8_linear(*on_meta, dynamic=dynamic).shape == (2, 4)
    with FakeTensorMode() as mode:
        stand_ins = [mode.from_tensor(tensor) for tensor in (activations(2, 16), weight, scale, bias)]
        assert kernels.int8_linear(*stand_ins, dynamic=dynamic).shape == (2, 4)


def test_shapes_that_do_not_fit_are_refused(computed_by: str) -> None:
    weight, scale, bias = layer(16, 4)
    x = activations(2, 16)
    for wrong in (
        (activations(2, 15), weight, scale, bias),
        (torch.tensor(1.0), weight, scale, bias),
        (x, weight.float(), scale, bias),
        (x, weight[0], scale, bias),
        (x, weight, scale[:3], bias),
        (x, weight, scale[:1], bias),
        (x, weight, scale.double(), bias),
        (x, weight, scale[:, None], bias),
        (x, weight, scale, bias[:3]),
        (x, weight, scale, bias.bfloat16()),
    ):
        with pytest.raises(ValueError, match=r"must be|don't fit"):
            kernels.int8_linear(*wrong, dynamic=True)
    with pytest.raises(ValueError, match="matrix"):
        kernels.quantize_rows(activations(16))


@needs_native
def test_native_library_describes_itself() -> None:
    assert kernels.native_version() == kernels._VERSION
    assert kernels.instruction_set() in INSTRUCTION_SETS
    with pytest.raises(ValueError, match="mmx"):
        kernels.select_instruction_set("mmx")


def test_without_a_native_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "native_library", lambda: None)
    assert not kernels.available()
    assert kernels.native_version() is None
    assert kernels.instruction_set() is None
    with pytest.raises(RuntimeError, match="not built"):
        kernels.select_instruction_set("avx2")


def test_hand_worked_row_with_a_scale_fixed_beforehand(computed_by: str) -> None:
    """Scale 1 again, but 200 is clamped to 127: the outputs of the row at the top. Scale 0.5 makes 254 -> 127, -127, 1:

    sums 127 * 2 - 127 + 5 = 132 and -381 + 1 = -380, times 0.5: 132 * 0.25 + 1 = 34 and -380.
    """
    weight = torch.tensor([[2, 1, 5], [-3, 0, 1]], dtype=torch.int8)
    scale, bias = torch.tensor([0.5, 2.0]), torch.tensor([1.0, 0.0])
    for x, input_scale, expected in (
        ([200, -63.5, 0.4], 1.0, [96.0, -762.0]),
        ([127, -63.5, 0.4], 0.5, [34.0, -380.0]),
    ):
        y = kernels.int8_linear(torch.tensor(x), weight, scale, bias, input_scale=torch.tensor(input_scale))
        torch.testing.assert_close(y, torch.tensor(expected))


@pytest.mark.parametrize("inputs, outputs", SHAPES)
def test_a_fixed_scale_gives_the_same_bits_everywhere(computed_by: str, inputs: int, outputs: int) -> None:
    weight, scale, bias = layer(inputs, outputs)
    for rows in ROWS:
        x = activations(rows, inputs)
        fixed = x.abs().amax() / 90  # a few numbers are clamped
        y = kernels.int8_linear(x, weight, scale, bias, input_scale=fixed)
        assert torch.equal(y, kernels.int8_linear_reference(x, weight, scale, bias, input_scale=fixed))
        q = (x / fixed).round().clamp(-127, 127).double()
        expected = q @ weight.double().T * fixed.double() * scale.double() + bias.double()
        terms = q.abs() @ weight.double().abs().T * fixed.double() * scale.double() + bias.double().abs()
        assert ((y - expected).abs() <= 4 * 2.0**-23 * terms).all()


def test_the_largest_number_as_scale_is_what_dynamic_does(computed_by: str) -> None:
    weight, scale, bias = layer(70, 9)
    x = activations(1, 70)
    fixed = kernels.int8_linear(x, weight, scale, bias, input_scale=x.abs().amax() / 127)
    assert torch.equal(fixed, kernels.int8_linear(x, weight, scale, bias, dynamic=True))


def test_a_fixed_scale_hides_no_broken_row(computed_by: str) -> None:
    weight, scale, bias = layer(40, 5)
    x = activations(3, 40)
    x[1, 7] = torch.inf
    y = kernels.int8_linear(x, weight, scale, bias, input_scale=torch.tensor(0.01))
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


def test_what_a_fixed_scale_clamps_gets_no_gradient(computed_by: str) -> None:
    """With scale 1 the range ends at 127.5: the gradient is the first weight where x lies inside, else 0."""
    weight, x = torch.tensor([[3, 5]], dtype=torch.int8), torch.tensor([[127.4, 300.0]], requires_grad=True)
    y = kernels.int8_linear(x, weight, torch.ones(1), input_scale=torch.tensor(1.0))
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[3.0, 0.0]]))


def test_a_scale_for_each_row_is_refused_as_a_fixed_one(computed_by: str) -> None:
    weight, scale, bias = layer(16, 4)
    with pytest.raises(ValueError, match="input_scale must be"):
        kernels.int8_linear(activations(2, 16), weight, scale, bias, input_scale=torch.ones(2))
