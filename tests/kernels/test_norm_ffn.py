"""The feed-forward block: the fast path against `reference.py`, and `reference.py` against numbers by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import kernels.norm_ffn.flops  # noqa: F401  registers its formula
from kernels.norm_ffn import cpu, norm_ffn
from kernels.norm_ffn.op import ffn
from kernels.norm_ffn.reference import norm_ffn as reference
from tests.kernels.norm_ffn_cases import FORMS, assert_as_exact, draw, poisoned_memory, run

# (T, D, F): ones, off the powers of two, more rows than a chunk has, an empty batch.
SHAPES = [(1, 1, 1), (5, 6, 11), (33, 12, 5), (129, 8, 16), (0, 4, 7)]


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    with poisoned_memory():
        yield


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cases here are cut into several chunks, the last one smaller."""
    monkeypatch.setattr(cpu, "HIDDEN_BYTES", 4096)


def test_reference_by_hand() -> None:
    # LN of (1, 3) is (-1, 1); scaled by (2, 1) and shifted by (0, 1) it is (-2, 2). Hidden units -2 + 2 + 1 = 1 and
    # 2 + 2 - 5 = -1, of which ReLU leaves 1 and 0; out (1, 3) + (3, -3) + (0.5, 0).
    x, norm = torch.tensor([[1.0, 3.0]]), (torch.tensor([2.0, 1.0]), torch.tensor([0.0, 1.0]))
    w1, b1 = torch.tensor([[1.0, 1.0], [-1.0, 1.0]]), torch.tensor([1.0, -5.0])
    w2, b2 = torch.tensor([[3.0, 9.0], [-3.0, 9.0]]), torch.tensor([0.5, 0.0])
    plain = reference(x, *norm, w1, b1, w2, b2, activation="relu", eps=0.0)
    torch.testing.assert_close(plain, torch.tensor([[4.5, 0.0]]))
    # As a gated unit: the first row's ReLU, 1, times the second's plain -1.
    gated = reference(x, *norm, w1, b1, w2[:, :1], b2, activation="relu", gated=True, eps=0.0)
    torch.testing.assert_close(gated, torch.tensor([[1.0 - 3.0 + 0.5, 3.0 + 3.0]]))


@pytest.mark.parametrize(
    ("activation", "expected"),
    [("gelu", 0.841344746), ("relu", 1.0), ("silu", 0.731058579)],  # P(normal < 1), 1, 1 / (1 + e^-1)
)
def test_activations_of_one_by_hand(activation: str, expected: float) -> None:
    # A row of one number is normed to 0, so that the hidden unit is b1.
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    matrix = one.unsqueeze(0)
    for function in (reference, norm_ffn):
        out = function(0 * matrix, one, zero, matrix, one, matrix, zero, activation=activation)
        assert float(out) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("activation", "gated"), FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float64_equals_reference(shape: tuple[int, ...], activation: str, gated: bool) -> None:
    inputs = draw(shape, gated)
    settings: dict[str, Any] = {"activation": activation, "gated": gated, "eps": 1e-3}
    got, expected = run(norm_ffn, inputs, **settings), run(reference, inputs, **settings)
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.shape == theirs.shape
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("activation", "gated"), FORMS)
def test_float32_errs_at_most_thrice_as_much_as_the_reference(activation: str, gated: bool) -> None:
    inputs = draw((257, 24, 40), gated, torch.float32)
    settings: dict[str, Any] = {"activation": activation, "gated": gated}
    assert_as_exact(run(norm_ffn, inputs, **settings), inputs, 1e-6, **settings)


@pytest.mark.parametrize("activation", ["gelu", "silu"])  # ReLU has a corner
@pytest.mark.parametrize("gated", [False, True])
def test_gradcheck(activation: str, gated: bool) -> None:
    inputs = tuple(x.requires_grad_() for x in draw((3, 4, 5), gated))
    assert torch.autograd.gradcheck(lambda *x: norm_ffn(*x, activation=activation, gated=gated), inputs)


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = draw((70, 6, 11))
    in_chunks = run(norm_ffn, inputs)
    monkeypatch.setattr(cpu, "HIDDEN_BYTES", 2**30)
    for mine, whole in zip(in_chunks, run(norm_ffn, inputs), strict=True):
        torch.testing.assert_close(mine, whole, rtol=1e-12, atol=1e-12)


def test_nothing_but_the_inputs_is_saved() -> None:
    inputs, saved = [x.requires_grad_() for x in draw((40, 6, 24))], set()

    def keep(tensor: Tensor) -> Tensor:
        saved.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        norm_ffn(*inputs)
    assert inputs[0].data_ptr() in saved <= {x.data_ptr() for x in inputs}


def test_scale_of_zero_gives_finite_gradients() -> None:
    inputs = draw((9, 6, 11))
    inputs[1].zero_()
    for mine, theirs in zip(run(norm_ffn, inputs), run(reference, inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


def test_repeats_are_bitwise_equal() -> None:
    inputs = draw((129, 24, 40), True, torch.float32)
    first, again = (run(norm_ffn, inputs, gated=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_inputs_that_are_views_are_read_rightly() -> None:
    inputs = draw((9, 6, 11))
    views = [x.t().contiguous().t() if x.dim() == 2 else x.repeat_interleave(2)[::2] for x in inputs]
    for mine, theirs in zip(run(norm_ffn, views), run(norm_ffn, inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_a_gradient_that_is_expanded_is_read_rightly() -> None:
    inputs = [x.requires_grad_() for x in draw((9, 6, 11))]
    mine = torch.autograd.grad(norm_ffn(*inputs).sum(), inputs)
    theirs = torch.autograd.grad(reference(*inputs).sum(), inputs)
    torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("inside", [True, False], ids=["backward inside", "backward outside"])
def test_autocast_errs_at_most_thrice_as_much_as_the_autocast_reference(inside: bool, gated: bool) -> None:
    inputs = draw((65, 24, 40), gated, torch.float32)
    exact = run(reference, [x.double() for x in inputs], gated=gated)

    def autocast(function: Callable[..., Tensor]) -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in inputs]
        with torch.autocast("cpu", torch.bfloat16):
            out = function(*leaves, gated=gated)
            gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
            if inside:
                torch.autograd.backward(out, gradient.float())
        if not inside:
            torch.autograd.backward(out, gradient.float())
        return [out.detach(), *(x.grad for x in leaves if x.grad is not None)]

    for truth, theirs, got in zip(exact, autocast(reference), autocast(norm_ffn), strict=True):
        assert got.dtype == torch.float32
        assert (got.double() - truth).abs().max() <= 3 * (theirs.double() - truth).abs().max() + 1e-6


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_autocast_takes_narrow_rows(narrow: torch.dtype) -> None:
    x, *parameters = draw((9, 8, 16), dtype=torch.float32)
    x = x.to(narrow).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out, plain = norm_ffn(x, *parameters), norm_ffn(x.detach().float(), *parameters)
    out.sum().backward()
    assert torch.equal(out, plain) and out.dtype == torch.float32
    assert x.grad is not None and x.grad.dtype == narrow


def test_autocast_leaves_float64_alone() -> None:
    inputs = draw((9, 8, 16))
    with torch.autocast("cpu", torch.bfloat16):
        out = norm_ffn(*inputs)
    assert torch.equal(out, norm_ffn(*inputs))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("rows", [0, 3])
def test_opcheck(rows: int, gated: bool) -> None:
    inputs = [x.requires_grad_() for x in draw((rows, 4, 5), gated)]
    torch.library.opcheck(ffn, (*inputs, "silu", gated, 1e-5, torch.float64))


@pytest.mark.parametrize("gated", [False, True])
def test_flops_are_those_of_the_plain_products(gated: bool) -> None:
    def both(function: Callable[..., Tensor]) -> tuple[int, int]:
        inputs = [x.requires_grad_() for x in draw((7, 4, 5), gated)]
        with FlopCounterMode(display=False) as forward:
            out = function(*inputs, gated=gated)
        with FlopCounterMode(display=False) as backward:
            torch.autograd.grad(out.sum(), inputs)
        return forward.get_total_flops(), backward.get_total_flops()

    products = 2 * 7 * 4 * 5 * (3 if gated else 2)
    assert both(norm_ffn) == both(reference) == (products, 2 * products)


def test_it_stays_whole_inside_a_compiled_function() -> None:
    inputs = draw((6, 5, 8))
    compiled = torch.compile(lambda *x: norm_ffn(*x) * 2, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs), 2 * norm_ffn(*inputs))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(3)}, r"x, w2: got shapes \(3,\), \(4, 6\), allowed: \[T, D\], \[D, F\]"),
        ({"x": torch.zeros(3, 0), "w2": torch.zeros(0, 6)}, "with D and F of at least 1"),
        ({"w2": torch.zeros(4, 0), "w1": torch.zeros(0, 4), "b1": torch.zeros(0)}, "D and F of at least 1"),
        ({"w2": torch.zeros(4)}, r"x, w2: got shapes \(3, 4\), \(4,\)"),
        ({"norm_weight": torch.zeros(3)}, r"norm_weight: got shape \(3,\), allowed: \(4,\)"),
        ({"norm_bias": torch.zeros(1)}, r"norm_bias: got shape \(1,\), allowed: \(4,\)"),
        ({"w1": torch.zeros(4, 6)}, r"w1: got shape \(4, 6\), allowed: \(6, 4\)"),
        ({"gated": True}, r"w1: got shape \(6, 4\), allowed: \(12, 4\), with x \(3, 4\), .* and gated=True"),
        ({"b1": torch.zeros(1, 6)}, r"b1: got shape \(1, 6\), allowed: \(6,\)"),
        ({"w2": torch.zeros(5, 6)}, r"w2: got shape \(5, 6\), allowed: \(4, 6\)"),
        ({"b2": torch.zeros(6)}, r"b2: got shape \(6,\), allowed: \(4,\)"),
        ({"b2": torch.zeros(4).double()}, "w2, b2: got torch.float32, torch.float64, allowed: one of"),
        ({"activation": "tanh"}, "activation: got 'tanh', allowed: gelu, relu, silu"),
        ({"eps": -1.0}, "eps: got -1.0, allowed: at least 0"),
        ({"eps": float("nan")}, "eps: got nan"),
        ({"x": torch.zeros(3, 4, device="meta")}, "x: got device 'meta', allowed: cpu, cuda"),
        ({"w1": torch.zeros(6, 4, device="meta")}, "got devices cpu, meta, allowed: one for all"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    shapes = {
        "x": (3, 4),
        "norm_weight": (4,),
        "norm_bias": (4,),
        "w1": (6, 4),
        "b1": (6,),
        "w2": (4, 6),
        "b2": (4,),
    }
    good: dict[str, Any] = {name: torch.zeros(shape) for name, shape in shapes.items()}
    with pytest.raises(ValueError, match=message):
        norm_ffn(**(good | changes))


def test_a_gpu_takes_narrow_numbers_and_no_double_ones() -> None:
    with FakeTensorMode():
        inputs = [torch.empty(x.shape, device="cuda") for x in draw((3, 128, 5))]
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            out = norm_ffn(*(x.to(dtype) for x in inputs))
            assert out.dtype == dtype and out.device.type == "cuda"
        with pytest.raises(ValueError, match="got torch.float64, allowed: one of float32, float16, bfloat16"):
            norm_ffn(*(x.double() for x in inputs))


def test_a_width_that_a_gpu_cannot_take_is_named() -> None:
    with FakeTensorMode():
        inputs = [torch.empty(x.shape, device="cuda") for x in draw((3, 129, 5))]
        with pytest.raises(ValueError, match="x: got width 129, allowed on a GPU: at most 128"):
            norm_ffn(*inputs)


def test_narrow_dtypes_are_refused_outside_autocast() -> None:
    with pytest.raises(ValueError, match="got torch.bfloat16, allowed: one of float32, float64"):
        norm_ffn(*draw((3, 4, 5), dtype=torch.bfloat16))
