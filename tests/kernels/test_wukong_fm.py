"""Wukong's interactions: the fast path against `reference.py`, and `reference.py` against numbers by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from kernels.wukong_fm import wukong_fm
from kernels.wukong_fm.op import fm_lcb
from kernels.wukong_fm.reference import wukong_fm as reference
from tests.kernels.wukong_fm_cases import assert_as_exact, draw, normed, poisoned_memory, run

# (B, N, D, K, L): ones, off the powers of two, more rank than embeddings, an empty batch.
SHAPES = [(1, 1, 1, 1, 1), (5, 7, 6, 3, 2), (33, 12, 16, 5, 9), (4, 3, 8, 10, 1), (0, 4, 8, 2, 3)]


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    with poisoned_memory():
        yield


def test_reference_by_hand() -> None:
    # Embeddings (1, 2) and (3, 4): X X^T = [[5, 11], [11, 25]], times (1, -1) is (-6, -14).
    # W = (1, 2): (1, 2) + 2 (3, 4) = (7, 10).
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    interactions, compressed = reference(x, torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0, 2.0]]))
    assert torch.equal(interactions, torch.tensor([[[-6.0], [-14.0]]]))
    assert compressed is not None and torch.equal(compressed, torch.tensor([[[7.0, 10.0]]]))


def test_reference_takes_a_y_of_each_examples_own() -> None:
    # The pairs of the two examples are [[5, 11], [11, 25]] and [[0, 0], [0, 1]]; their y (1, -1) and (2, 3).
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 1.0]]])
    interactions, compressed = reference(x, torch.tensor([[[1.0], [-1.0]], [[2.0], [3.0]]]))
    assert torch.equal(interactions, torch.tensor([[[-6.0], [-14.0]], [[0.0], [3.0]]]))
    assert compressed is None


def test_reference_norms_all_pairs_of_an_example_together() -> None:
    # The interactions by hand above, (-6, -14), are -10 +- 4; normed (1, -1), scaled by (2, 3) and shifted by (0, 1).
    x, y = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[1.0], [-1.0]])
    scale, shift = torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0])
    interactions, _ = reference(x, y, norm_weight=scale, norm_bias=shift, eps=0.0)
    torch.testing.assert_close(interactions, torch.tensor([[[2.0], [-2.0]]]))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_float64_equals_reference(shape: tuple[int, ...], compress: bool, own: bool, norm: bool) -> None:
    inputs = draw(shape, compress, own=own, norm=norm)
    got, expected = run(wukong_fm, inputs), run(reference, inputs)
    assert len(got) == (5 if compress else 3) + (2 if norm else 0)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_float32_errs_at_most_thrice_as_much_as_the_reference(own: bool, norm: bool) -> None:
    inputs = draw((257, 24, 16, 8, 8), True, torch.float32, own, norm)
    assert_as_exact(run(wukong_fm, inputs), inputs, 1e-6)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("compress", [True, False])
def test_gradcheck(compress: bool, own: bool, norm: bool) -> None:
    drawn = draw((3, 4, 5, 2, 3), compress, own=own, norm=norm)
    inputs = tuple(None if t is None else t.requires_grad_() for t in drawn)

    def outputs(*tensors: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(out for out in normed(wukong_fm)(*tensors) if out is not None)

    assert torch.autograd.gradcheck(outputs, inputs)  # type: ignore[arg-type]  # None passes through


def test_nothing_but_the_inputs_is_saved() -> None:
    inputs, saved = draw((6, 5, 8, 3, 2), True), set()

    def keep(tensor: Tensor) -> Tensor:
        if tensor.numel():
            saved.add(tensor.data_ptr())
        return tensor

    leaves = [t.requires_grad_() for t in inputs if t is not None]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        normed(wukong_fm)(*leaves)
    assert leaves[0].data_ptr() in saved <= {t.data_ptr() for t in leaves}


def test_an_output_that_is_not_used_sends_no_gradient() -> None:
    x, y, w = (t for t in draw((3, 4, 5, 2, 3), True) if t is not None)
    w.requires_grad_()
    wukong_fm(x, y.requires_grad_(), w)[0].sum().backward()
    assert w.grad is not None and torch.equal(w.grad, torch.zeros_like(w))


def test_repeats_are_bitwise_equal() -> None:
    inputs = draw((129, 24, 16, 8, 8), True, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(run(wukong_fm, inputs), run(wukong_fm, inputs), strict=True))


def test_an_input_that_is_a_view_is_read_rightly() -> None:
    x, y, w = draw((6, 5, 8, 3, 2), True)
    assert x is not None
    view = x.transpose(1, 2).contiguous().transpose(1, 2)
    got, expected = run(wukong_fm, [view, y, w]), run(wukong_fm, [x, y, w])
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_the_same_y_for_every_example_is_the_shared_one() -> None:
    x, y, w = (t for t in draw((6, 5, 8, 3, 2), True) if t is not None)
    own, shared = wukong_fm(x, y.expand(6, -1, -1), w)[0], wukong_fm(x, y, w)[0]
    assert torch.equal(own, shared)


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inside", [True, False], ids=["backward inside", "backward outside"])
def test_autocast_computes_in_float32(narrow: torch.dtype, inside: bool) -> None:
    x, y, w = (t for t in draw((5, 4, 8, 3, 2), True, torch.float32) if t is not None)
    x = x.to(narrow).requires_grad_()
    y, w = y.requires_grad_(), w.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [out for out in wukong_fm(x, y, w) if out is not None]
        if inside:
            torch.autograd.backward(outputs, [torch.ones_like(out) for out in outputs])
    if not inside:
        torch.autograd.backward(outputs, [torch.ones_like(out) for out in outputs])
    leaves = [t.detach().clone().float().requires_grad_() for t in (x, y, w)]
    expected = [out for out in wukong_fm(*leaves) if out is not None]
    torch.autograd.backward(expected, [torch.ones_like(out) for out in expected])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(outputs, expected, strict=True))
    for mine, theirs in zip((x, y, w), leaves, strict=True):
        assert mine.grad is not None and theirs.grad is not None
        assert torch.equal(mine.grad, theirs.grad.to(mine.dtype))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("compress", [True, False])
def test_opcheck(compress: bool, own: bool, norm: bool) -> None:
    drawn = draw((3, 4, 5, 2, 3), compress, own=own, norm=norm)
    arguments = [None if x is None else x.requires_grad_() for x in drawn]
    torch.library.opcheck(fm_lcb, (*arguments, *([] if norm else [None, None]), 1e-5))


def test_it_stays_whole_inside_a_compiled_function() -> None:
    x, y, w = (t for t in draw((6, 5, 8, 3, 2), True) if t is not None)
    compiled = torch.compile(lambda x, y, w: wukong_fm(x, y, w)[0] * 2, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, y, w), 2 * wukong_fm(x, y, w)[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(3, 4)}, r"x, y: got shapes \(3, 4\), \(4, 2\), allowed: \[B, N, D\], \[N, K\]"),
        ({"y": torch.zeros(5, 2)}, r"x, y: got shapes \(3, 4, 5\), \(5, 2\)"),
        ({"y": torch.zeros(2, 4, 2)}, r"got shapes \(3, 4, 5\), \(2, 4, 2\), .* or \[B, N, K\]"),
        ({"y": torch.zeros(4)}, r"got shapes \(3, 4, 5\), \(4,\)"),
        ({"w": torch.zeros(4, 3)}, r"w: got shape \(4, 3\), allowed: \[L, 4\]"),
        (
            {"y": torch.zeros(4, 2).double()},
            "got torch.float32, torch.float64, allowed: one of float32, float64",
        ),
        ({"x": torch.zeros(3, 4, 5).half(), "y": torch.zeros(4, 2).half(), "w": None}, "got torch.float16"),
        ({"w": torch.zeros(3, 4, device="meta")}, "x, y, w: got devices cpu, meta, allowed: one for all"),
        ({"x": torch.zeros(3, 4, 5, device="meta")}, "x: got device 'meta', allowed: cpu, cuda"),
        ({"norm_weight": torch.zeros(8)}, r"norm_bias: got None beside the other one, .* or \[8\]"),
        ({"norm_bias": torch.zeros(8)}, "norm_weight: got None beside the other one"),
        (
            {"norm_weight": torch.zeros(4), "norm_bias": torch.zeros(8)},
            r"norm_weight: got shape \(4,\), allowed: \(8,\)",
        ),
        ({"eps": -1.0}, "eps: got -1.0, allowed: at least 0"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "x": torch.zeros(3, 4, 5),
        "y": torch.zeros(4, 2),
        "w": torch.zeros(3, 4),
    }
    with pytest.raises(ValueError, match=message):
        wukong_fm(**(good | changes))


@pytest.mark.parametrize(("name", "shape"), [("N", (2, 129, 8)), ("K", (2, 33, 8)), ("L", (2, 4, 8))])
def test_what_a_gpu_cannot_take_is_named(name: str, shape: tuple[int, ...]) -> None:
    with FakeTensorMode():
        x = torch.empty(shape, device="cuda")
        y = torch.empty(shape[1], 33 if name == "K" else 2, device="cuda")
        w = torch.empty(129 if name == "L" else 3, shape[1], device="cuda")
        most = {"N": 128, "K": 32, "L": 128}[name]
        with pytest.raises(ValueError, match=f"{name}: got {most + 1}, allowed on a GPU: at most {most}"):
            wukong_fm(x, y, w)


def test_a_gpu_takes_narrow_numbers_and_no_double_ones() -> None:
    with FakeTensorMode():
        x, y = torch.empty(2, 5, 8, device="cuda"), torch.empty(5, 3, device="cuda")
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            interactions, _ = wukong_fm(x.to(dtype), y.to(dtype))
            assert interactions.dtype == dtype and interactions.device.type == "cuda"
        with pytest.raises(ValueError, match="got torch.float64, allowed: one of float32, float16, bfloat16"):
            wukong_fm(x.double(), y.double())
