"""What jagged attention promises besides its numbers: isolation, repeats, operators, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from kernels.jagged_attention import jagged_attention
from kernels.jagged_attention.operators import activation_attention, softmax_attention
from tests.kernels.jagged_attention_cases import (
    ACTIVATIONS,
    HEADS,
    WIDTH,
    draw,
    offsets_of,
    poisoned_memory,
    run,
)

ROWS, OTHER_ROWS = [0, 1, 7, 0, 7, 33, 1, 50], [2, 0, 7, 0, 7, 5, 1, 19]


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    with poisoned_memory():
        yield


def own_rows(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [draw(sum(ROWS), dtype, seed=s) for s in range(3)]


@pytest.mark.parametrize("activation", ["softmax", "silu"])
def test_autocast_casts_the_inputs(activation: str) -> None:
    offsets = offsets_of(ROWS)
    q, k, v = (x.requires_grad_() for x in own_rows())
    with torch.autocast("cpu", torch.bfloat16):
        out = jagged_attention(q, k.bfloat16(), v, offsets, offsets, window=4, activation=activation)
    halves = [x.detach().bfloat16() for x in (q, k, v)]
    expected, *_ = run(jagged_attention, halves, offsets, offsets, window=4, activation=activation)
    assert out.dtype == torch.bfloat16 and torch.equal(out, expected)
    out.sum().backward()
    assert q.grad is not None and q.grad.dtype == torch.float32 and q.grad.isfinite().all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_rows_without_keys_give_exact_zeros_and_zero_gradients(activation: str) -> None:
    inputs = [draw(3, torch.float32), draw(4, torch.float32, seed=1), draw(4, torch.float32, seed=2)]
    q_offsets, k_offsets = offsets_of([2, 1, 0]), offsets_of([0, 1, 3])
    out, dq, dk, dv = run(jagged_attention, inputs, q_offsets, k_offsets, activation=activation)
    assert torch.equal(out[:2], torch.zeros(2, HEADS, WIDTH))
    assert torch.equal(dq[:2], torch.zeros(2, HEADS, WIDTH))
    assert torch.equal(dk[1:], torch.zeros(3, HEADS, WIDTH))
    assert torch.equal(dv[1:], torch.zeros(3, HEADS, WIDTH))
    assert out[2].abs().sum() > 0 and dv[0].abs().sum() > 0


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_nan_in_one_row_leaves_the_others_bit_identical(activation: str) -> None:
    offsets = offsets_of([7, 7, 3])
    inputs = [draw(17, torch.float32, seed=s) for s in range(3)]
    clean = run(jagged_attention, inputs, offsets, offsets, activation=activation)
    inputs[1][8] = torch.nan
    dirty = run(jagged_attention, inputs, offsets, offsets, activation=activation)
    for before, after in zip(clean, dirty, strict=True):
        assert torch.equal(before[:7], after[:7]) and torch.equal(before[14:], after[14:])
        assert after[7:14].isnan().any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_repeats_are_bitwise_equal(activation: str) -> None:
    offsets = offsets_of(ROWS), offsets_of(OTHER_ROWS)
    inputs = [draw(sum(rows), torch.float32, seed=s) for s, rows in enumerate((ROWS, OTHER_ROWS, OTHER_ROWS))]
    first, second = (run(jagged_attention, inputs, *offsets, activation=activation) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_inputs_that_are_views_are_read_rightly(activation: str) -> None:
    offsets = offsets_of([4, 1, 4])
    q, k, v = draw(9, torch.float32, width=3 * WIDTH).split(WIDTH, dim=-1)
    out = jagged_attention(q, k, v, offsets, offsets, activation=activation)
    whole = (q.contiguous(), k.contiguous(), v.contiguous())
    assert torch.equal(out, run(jagged_attention, whole, offsets, offsets, activation=activation)[0])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_gradient_that_is_one_number_in_all_places_is_read_rightly(activation: str) -> None:
    offsets = offsets_of([4, 1, 4])
    q, k, v = (draw(9, torch.float32, seed=s).requires_grad_() for s in range(3))
    out = jagged_attention(q, k, v, offsets, offsets, activation=activation)
    expanded = torch.autograd.grad(out.sum(), (q, k, v), retain_graph=True)
    for mine, theirs in zip(expanded, torch.autograd.grad(out, (q, k, v), torch.ones_like(out)), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("k_lengths", "causal", "window"), [([4, 1, 0], False, 0), ([2, 0, 3], True, 0), ([2, 0, 3], False, 2)]
)
def test_opcheck(
    k_lengths: list[int], causal: bool, window: int, dtype: torch.dtype, activation: str
) -> None:
    tensors = (*(draw(5, dtype, seed=s).requires_grad_() for s in range(3)), offsets_of([2, 0, 3]))
    options = (causal, window, 0.25)
    if activation == "softmax":
        torch.library.opcheck(softmax_attention, (*tensors, offsets_of(k_lengths), *options))
    else:
        torch.library.opcheck(activation_attention, (*tensors, offsets_of(k_lengths), activation, *options))


@pytest.mark.parametrize("activation", ["softmax", "silu"])
def test_it_stays_whole_inside_a_compiled_function(activation: str) -> None:
    offsets = offsets_of(ROWS)

    def doubled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return 2 * jagged_attention(q, k, v, offsets, offsets, activation=activation)

    compiled = torch.compile(doubled, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*own_rows()), doubled(*own_rows()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "tanh"}, "activation: got 'tanh', allowed: softmax, silu, gelu, relu2"),
        ({"q": torch.zeros(3, 2)}, r"got shapes \(3, 2\), \(3, 1, 4\), \(3, 1, 4\)"),
        ({"v": torch.zeros(2, 1, 4)}, r"allowed: \[Tq, H, E\], \[Tk, H, E\], \[Tk, H, E\]"),
        ({"v": torch.zeros(3, 1, 4).double()}, "allowed: one of float32, float64, bfloat16 for all three"),
        ({"q": torch.zeros(3, 1, 4).half()}, "got torch.float16"),
        ({"q": torch.zeros(3, 1, 4, device="meta")}, "q: got device 'meta', allowed: 'cpu' or 'cuda'"),
        ({"k": torch.zeros(3, 1, 4, device="meta")}, "k: got device 'meta', allowed: that of q, 'cpu'"),
        ({"q_offsets": torch.tensor([0, 1, 3])}, r"q_offsets: got shape \(3,\), allowed: k_offsets' \(2,\)"),
        ({"k_offsets": torch.tensor([])}, "k_offsets: got shape"),
        ({"k_offsets": torch.tensor([0, 4])}, "k_offsets: got 0 ... 4, allowed: ascending from 0 .* 3"),
        ({"q_offsets": torch.tensor([1, 3])}, "q_offsets: got 1 ... 3"),
        (
            {"q_offsets": torch.tensor([0, 4, 3]), "k_offsets": torch.tensor([0, 1, 3])},
            "q_offsets: got 0 ... 3",
        ),
        (
            {"q_offsets": torch.tensor([0, 1, 3]), "k_offsets": torch.tensor([0, 2, 3]), "causal": True},
            "causal: got True, allowed: False, because q_offsets are unlike k_offsets",
        ),
        (
            {"q_offsets": torch.tensor([0, 1, 3]), "k_offsets": torch.tensor([0, 2, 3]), "window": 2},
            "window: got 2, allowed: 0, because q_offsets are unlike k_offsets",
        ),
        ({"q_offsets": None, "causal": True}, "causal: got True, .* seeds have no place among the keys"),
        ({"q_offsets": None, "window": 1}, "window: got 1, .* seeds have no place among the keys"),
        ({"window": -1}, "window: got -1, allowed: 0"),
        (
            {"k_offsets": torch.tensor([0, 3], dtype=torch.int32)},
            "k_offsets: got torch.int32, allowed: int64",
        ),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, object], message: str) -> None:
    whole = torch.tensor([0, 3])
    arguments: dict[str, Any] = {name: torch.zeros(3, 1, 4) for name in ("q", "k", "v")}
    with pytest.raises(ValueError, match=message):
        jagged_attention(**({"q_offsets": whole, "k_offsets": whole} | arguments | changes))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("k_offsets", [[0, 1, 3], [0, 2, 4], [0, 4, 3], [1, 2, 3]], ids=str)
def test_every_activation_checks_the_offsets(k_offsets: list[int], activation: str) -> None:
    x, offsets = torch.zeros(3, 1, 4), torch.tensor([0, 2, 3])
    with pytest.raises(ValueError, match="offsets"):
        jagged_attention(x, x, x, offsets, torch.tensor(k_offsets), causal=True, activation=activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_tensors_on_a_gpu_are_taken(activation: str) -> None:
    name = "softmax" if activation == "softmax" else "activation"
    for operator in (f"jagged_{name}_attention", f"jagged_{name}_attention_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"gem_distill::{operator}", "CUDA")
    with FakeTensorMode():
        x, offsets = (
            torch.zeros(3, 2, 256, dtype=torch.float16, device="cuda"),
            torch.zeros(2, device="cuda").long(),
        )
        out = jagged_attention(x, x, x, offsets, offsets, causal=True, activation=activation)
    assert out.shape == x.shape and out.device.type == "cuda" and out.dtype == torch.float16


@pytest.mark.parametrize(
    ("width", "dtype", "message"),
    [
        (4, torch.float64, "allowed: one of float32, float16, bfloat16 for all three on 'cuda'"),
        (257, torch.float32, "q: got 257 floats per head, allowed: 256 at most on a GPU"),
    ],
)
def test_what_a_gpu_cannot_take_is_named(width: int, dtype: torch.dtype, message: str) -> None:
    with FakeTensorMode(), pytest.raises(ValueError, match=message):
        x, offsets = (
            torch.zeros(3, 2, width, dtype=dtype, device="cuda"),
            torch.zeros(2, device="cuda").long(),
        )
        jagged_attention(x, x, x, offsets, offsets)
