"""Jagged mixing: the fast path against `reference.py`, `reference.py` against numbers by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from kernels.jagged_mix import jagged_mix
from kernels.jagged_mix.op import mix
from kernels.jagged_mix.reference import jagged_mix as reference

# Lengths of the rows, and (M, D): ones, off the powers of two, wider than a register.
LENGTHS = [[0, 1, 7, 0, 7, 33, 1, 130, 3, 0], [1], [5, 5, 5], [0, 0], [0, 2], []]
SIZES = [(1, 1), (3, 5), (4, 32), (6, 17)]


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory that an operator asks for and does not write holds NaN, not a lucky zero."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(before)


def offsets_of(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *torch.tensor(lengths, dtype=torch.int64).cumsum(0).tolist()])


def draw(
    lengths: Sequence[int], mixed: int, dim: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(sum(lengths), mixed), (len(lengths), mixed, dim)]
    values, matrices = (
        torch.randn(size, dtype=torch.float64, generator=generator).to(dtype) for size in sizes
    )
    return values, matrices


def run(function: Callable[..., Tensor], inputs: Sequence[Tensor], offsets: Tensor) -> list[Tensor]:
    """Output, and the gradients of a fixed random function of it."""
    values, matrices = (x.detach().clone().requires_grad_() for x in inputs)
    out = function(values, matrices, offsets)
    generator = torch.Generator().manual_seed(7)
    gradient = torch.randn(out.shape, dtype=torch.float64, generator=generator).to(out.dtype)
    found = torch.autograd.grad(out, [values, matrices], gradient, materialize_grads=True)
    return [out.detach(), *found]


def test_reference_by_hand() -> None:
    # Row 0 has the tokens (1, 2) and (0, 1) and A = [[1, 0, 2], [3, 1, 0]]; row 1 none; row 2 (2, 2), A = ones.
    values = torch.tensor([[1.0, 2.0], [0.0, 1.0], [2.0, 2.0]])
    matrices = torch.tensor([[[1.0, 0, 2], [3, 1, 0]], [[9.0, 9, 9], [9, 9, 9]], [[1.0, 1, 1], [1, 1, 1]]])
    expected = torch.tensor([[7.0, 2, 2], [3, 1, 0], [4, 4, 4]])
    assert torch.equal(reference(values, matrices, torch.tensor([0, 2, 2, 3])), expected)


@pytest.mark.parametrize(("mixed", "dim"), SIZES)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_float64_equals_reference(lengths: list[int], mixed: int, dim: int) -> None:
    inputs, offsets = draw(lengths, mixed, dim), offsets_of(lengths)
    for mine, theirs in zip(run(jagged_mix, inputs, offsets), run(reference, inputs, offsets), strict=True):
        assert mine.shape == theirs.shape
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("mixed", "dim"), SIZES)
def test_float32_errs_at_most_thrice_as_much_as_the_reference(mixed: int, dim: int) -> None:
    inputs, offsets = draw(LENGTHS[0], mixed, dim, torch.float32), offsets_of(LENGTHS[0])
    exact = run(reference, [x.double() for x in inputs], offsets)
    plain, got = run(reference, inputs, offsets), run(jagged_mix, inputs, offsets)
    for truth, reference_value, value in zip(exact, plain, got, strict=True):
        allowed = 3 * (reference_value.double() - truth).abs().max() + 1e-6
        assert (value.double() - truth).abs().max() <= allowed


def test_gradcheck() -> None:
    lengths = [2, 0, 3, 1]
    values, matrices = draw(lengths, 3, 4)
    inputs = values.requires_grad_(), matrices.requires_grad_()
    assert torch.autograd.gradcheck(lambda v, a: jagged_mix(v, a, offsets_of(lengths)), inputs)


def test_the_matrix_of_an_empty_row_gets_exactly_zero() -> None:
    _, _, d_matrices = run(jagged_mix, draw([2, 0, 1], 3, 4, torch.float32), offsets_of([2, 0, 1]))
    assert torch.equal(d_matrices[1], torch.zeros(3, 4))
    assert d_matrices[0].abs().sum() > 0 and d_matrices[2].abs().sum() > 0


def test_a_nan_in_one_row_leaves_the_others_bit_identical() -> None:
    offsets = offsets_of([7, 7, 3])
    values, matrices = draw([7, 7, 3], 3, 4, torch.float32)
    clean = run(jagged_mix, [values, matrices], offsets)
    values[8] = torch.nan
    out, d_values, d_matrices = run(jagged_mix, [values, matrices], offsets)
    assert torch.equal(out[:7], clean[0][:7]) and torch.equal(out[14:], clean[0][14:])
    assert torch.equal(d_values, clean[1])
    assert torch.equal(d_matrices[[0, 2]], clean[2][[0, 2]])
    assert out[8].isnan().all() and d_matrices[1].isnan().any()


def test_repeats_are_bitwise_equal() -> None:
    inputs, offsets = draw(LENGTHS[0], 4, 32, torch.float32), offsets_of(LENGTHS[0])
    first, second = run(jagged_mix, inputs, offsets), run(jagged_mix, inputs, offsets)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_inputs_that_are_views_are_read_rightly() -> None:
    lengths = [4, 1, 4]
    values, matrices = draw(lengths, 4, 6)
    views = [values.t().contiguous().t(), matrices.transpose(1, 2).contiguous().transpose(1, 2)]
    got = run(jagged_mix, views, offsets_of(lengths))
    expected = run(jagged_mix, [values, matrices], offsets_of(lengths))
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_a_gradient_that_is_expanded_is_read_rightly() -> None:
    values, matrices = draw([2, 1], 3, 4)
    leaf = values.requires_grad_()
    jagged_mix(leaf, matrices, offsets_of([2, 1])).sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, matrices.sum(2)[[0, 0, 1]])


@pytest.mark.parametrize("inside", [True, False], ids=["backward inside", "backward outside"])
def test_autocast_computes_in_float32(inside: bool) -> None:
    lengths = [2, 0, 3]
    values, matrices = draw(lengths, 3, 4, torch.float32)
    values = values.bfloat16().requires_grad_()
    matrices.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = jagged_mix(values, matrices, offsets_of(lengths))
        if inside:
            out.backward(torch.ones_like(out))
    if not inside:
        out.backward(torch.ones_like(out))
    wide = values.detach().float().requires_grad_()
    expected = jagged_mix(wide, matrices.detach(), offsets_of(lengths))
    expected.backward(torch.ones_like(expected))
    assert out.dtype == torch.float32 and torch.equal(out, expected)
    assert values.grad is not None and wide.grad is not None and matrices.grad is not None
    assert torch.equal(values.grad, wide.grad.bfloat16())
    assert matrices.grad.dtype == torch.float32


@pytest.mark.parametrize("lengths", [[2, 0, 3], [0, 0]], ids=str)
def test_opcheck(lengths: list[int]) -> None:
    values, matrices = draw(lengths, 3, 4)
    arguments = values.requires_grad_(), matrices.requires_grad_(), offsets_of(lengths)
    torch.library.opcheck(mix, arguments)


def test_it_stays_whole_inside_a_compiled_function() -> None:
    lengths = [4, 1, 4]
    inputs, offsets = draw(lengths, 3, 4), offsets_of(lengths)
    compiled = torch.compile(lambda v, a: jagged_mix(v, a, offsets) * 2, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs), 2 * jagged_mix(*inputs, offsets))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": torch.zeros(3)}, r"got shapes \(3,\), \(1, 2, 4\), allowed: \[T, M\], \[B, M, D\]"),
        ({"values": torch.zeros(3, 3)}, r"got shapes \(3, 3\), \(1, 2, 4\)"),
        ({"matrices": torch.zeros(2, 4)}, r"got shapes \(3, 2\), \(2, 4\)"),
        ({"matrices": torch.zeros(2, 2, 4)}, r"offsets: got torch.int64 \(2,\), allowed: torch.int64 \(3,\)"),
        ({"offsets": torch.tensor([0, 3], dtype=torch.int32)}, r"offsets: got torch.int32 \(2,\), allowed:"),
        ({"matrices": torch.zeros(1, 2, 4).double()}, "got torch.float32, torch.float64, allowed: one of"),
        ({"values": torch.zeros(3, 2).bfloat16()}, "got torch.bfloat16, torch.float32"),
        ({"values": torch.zeros(3, 2, device="meta")}, "values: got device 'meta', allowed: cpu, cuda"),
        (
            {"matrices": torch.zeros(1, 2, 4, device="meta")},
            "got devices 'meta', 'cpu', allowed: that of values",
        ),
        ({"offsets": torch.tensor([0, 4])}, "offsets: got 0 ... 4, allowed: ascending from 0 .* 3"),
        ({"offsets": torch.tensor([1, 3])}, "offsets: got 1 ... 3"),
        (
            {"matrices": torch.zeros(2, 2, 4), "offsets": torch.tensor([0, 4, 3])},
            "offsets: got 0 ... 3, allowed: ascending",
        ),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Tensor], message: str) -> None:
    good = {"values": torch.zeros(3, 2), "matrices": torch.zeros(1, 2, 4), "offsets": torch.tensor([0, 3])}
    with pytest.raises(ValueError, match=message):
        jagged_mix(**(good | changes))


def test_a_gpu_takes_narrow_numbers_and_no_sizes_beyond_its_registers() -> None:
    with FakeTensorMode():
        offsets = torch.empty(2, dtype=torch.int64, device="cuda")
        values, matrices = torch.empty(3, 64, device="cuda"), torch.empty(1, 64, 128, device="cuda")
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            assert jagged_mix(values.to(dtype), matrices.to(dtype), offsets).dtype == dtype
        with pytest.raises(ValueError, match="allowed: one of float32, float16, bfloat16 for both"):
            jagged_mix(values.double(), matrices.double(), offsets)
        with pytest.raises(ValueError, match="M: got 65, allowed on a GPU: at most 64"):
            jagged_mix(torch.empty(3, 65, device="cuda"), torch.empty(1, 65, 4, device="cuda"), offsets)
        with pytest.raises(ValueError, match="D: got 129, allowed on a GPU: at most 128"):
            jagged_mix(torch.empty(3, 4, device="cuda"), torch.empty(1, 4, 129, device="cuda"), offsets)
