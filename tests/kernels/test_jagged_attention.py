"""Jagged attention: the fast path against `reference.py`, `reference.py` against torch's own attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kernels.jagged_attention import jagged_attention
from kernels.jagged_attention.blocks import groups
from kernels.jagged_attention.operators import softmax_attention
from kernels.jagged_attention.reference import jagged_attention as reference

HEADS, WIDTH = 3, 8
# None, one, several rows of a kind, off the powers of two, longer than one block of flash attention.
LENGTHS = [0, 1, 7, 0, 7, 33, 1, 130, 7, 3, 0]
OTHER_LENGTHS = [2, 0, 7, 0, 7, 5, 1, 19, 3, 300, 1]


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory that an operator asks for and does not write holds NaN, not a lucky zero."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(before)


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *torch.tensor(lengths, dtype=torch.int64).cumsum(0).tolist()])


def draw(tokens: int, dtype: torch.dtype = torch.float64, seed: int = 0, heads: int = HEADS) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(tokens, heads, WIDTH, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()
    )


def run(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], *args: Tensor | None, **options: int
) -> list[Tensor]:
    """Output, and the gradients of a fixed random function of it (zero for what it does not reach)."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves, *args, **options)
    generator = torch.Generator().manual_seed(7)
    out.backward(torch.randn(out.shape, dtype=torch.float64, generator=generator).to(out.dtype))
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    return [out.detach(), *gradients]


CASES = [
    pytest.param(LENGTHS, LENGTHS, False, id="self"),
    pytest.param(LENGTHS, LENGTHS, True, id="causal"),
    pytest.param(LENGTHS, OTHER_LENGTHS, False, id="cross"),
    pytest.param([5, 5, 5], [5, 5, 5], True, id="equal rows"),
    pytest.param([0, 0], [0, 0], False, id="empty rows only"),
    pytest.param([0, 2], [3, 0], False, id="no row with both"),
    pytest.param([], [], False, id="empty batch"),
]
# One key, a few, as many as a whole block, one more than a row has, far more than any row has.
WINDOWS = [1, 3, 32, 34, 10_000]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [0, *WINDOWS])
def test_reference_equals_torch_on_every_row(causal: bool, window: int) -> None:
    offsets = offsets_of(LENGTHS)
    q, k, v = (draw(int(offsets[-1]), seed=s) for s in range(3))
    out = reference(q, k, v, offsets, offsets, causal=causal, window=window)
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        row_q, row_k, row_v = (x[start:end].transpose(0, 1)[None] for x in (q, k, v))
        seen = [[0 <= i - j if causal else True for j in range(end - start)] for i in range(end - start)]
        for i, row in enumerate(seen):
            row[:] = [sees and (window == 0 or -window < i - j < window) for j, sees in enumerate(row)]
        mask = torch.tensor(seen, dtype=torch.bool).view(end - start, end - start)
        expected = scaled_dot_product_attention(row_q, row_k, row_v, attn_mask=mask)[0].transpose(0, 1)
        torch.testing.assert_close(out[start:end], expected)


@pytest.mark.parametrize(("q_lengths", "k_lengths", "causal"), CASES)
def test_float64_equals_reference(q_lengths: list[int], k_lengths: list[int], causal: bool) -> None:
    q_offsets, k_offsets = offsets_of(q_lengths), offsets_of(k_lengths)
    inputs = [draw(sum(q_lengths)), draw(sum(k_lengths), seed=1), draw(sum(k_lengths), seed=2)]
    got = run(jagged_attention, inputs, q_offsets, k_offsets, causal=causal)
    expected = run(reference, inputs, q_offsets, k_offsets, causal=causal)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(
    "lengths",
    [
        pytest.param(LENGTHS, id="jagged"),
        pytest.param([70, 70, 70], id="equal rows"),
        pytest.param([0, 0], id="empty rows only"),
        pytest.param([], id="empty batch"),
    ],
)
def test_windows_equal_reference(lengths: list[int], window: int, causal: bool) -> None:
    offsets = offsets_of(lengths)
    inputs = [draw(sum(lengths), seed=s) for s in range(3)]
    got = run(jagged_attention, inputs, offsets, offsets, causal=causal, window=window)
    expected = run(reference, inputs, offsets, offsets, causal=causal, window=window)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("window", [0, 20])
def test_more_tokens_than_are_copied_together(window: int) -> None:
    lengths = [120] * 150
    offsets = offsets_of(lengths)
    inputs = [draw(sum(lengths), seed=s, heads=1) for s in range(3)]
    got = run(jagged_attention, inputs, offsets, offsets, causal=True, window=window)
    expected = run(reference, inputs, offsets, offsets, causal=True, window=window)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [5, 64])
def test_a_window_costs_its_length_times_the_row(window: int, causal: bool) -> None:
    def scores(length: int) -> int:
        offsets = offsets_of([length, 3, length])
        found = groups(offsets, offsets, causal, window)
        assert sum(group.queries.blocks * group.queries.length for group in found) == 2 * length + 3
        return sum(group.queries.blocks * group.queries.length * group.keys.length for group in found)

    block = max(window, 32)
    assert scores(8_000) <= 16_003 * (3 * block if not causal else 2 * block)
    assert scores(8_000) <= 2.05 * scores(4_000)


@pytest.mark.parametrize(("q_lengths", "k_lengths", "causal"), CASES[:3])
def test_float32_errs_at_most_thrice_as_much_as_the_reference(
    q_lengths: list[int], k_lengths: list[int], causal: bool
) -> None:
    q_offsets, k_offsets = offsets_of(q_lengths), offsets_of(k_lengths)
    tokens = [sum(q_lengths), sum(k_lengths), sum(k_lengths)]
    inputs = [draw(n, torch.float32, seed=s) for s, n in enumerate(tokens)]
    exact = run(reference, [x.double() for x in inputs], q_offsets, k_offsets, causal=causal)
    plain = run(reference, inputs, q_offsets, k_offsets, causal=causal)
    got = run(jagged_attention, inputs, q_offsets, k_offsets, causal=causal)
    for truth, reference_value, value in zip(exact, plain, got, strict=True):
        allowed = 3 * (reference_value.double() - truth).abs().max() + 1e-7
        assert (value.double() - truth).abs().max() <= allowed


@pytest.mark.parametrize("window", [0, 7])
def test_bfloat16_errs_at_most_as_much_as_the_reference(window: int) -> None:
    offsets = offsets_of(LENGTHS)
    inputs = [draw(sum(LENGTHS), torch.bfloat16, seed=s) for s in range(3)]
    exact = run(reference, [x.double() for x in inputs], offsets, offsets, causal=True, window=window)
    plain = run(reference, inputs, offsets, offsets, causal=True, window=window)
    got = run(jagged_attention, inputs, offsets, offsets, causal=True, window=window)
    for truth, reference_value, value in zip(exact, plain, got, strict=True):
        assert value.dtype == torch.bfloat16
        assert (value - truth).abs().max() <= (reference_value - truth).abs().max() + 2**-7


def test_autocast_casts_the_inputs() -> None:
    offsets = offsets_of(LENGTHS)
    q, k, v = (draw(sum(LENGTHS), torch.float32, seed=s) for s in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        out = jagged_attention(q, k.bfloat16(), v, offsets, offsets, window=4)
    expected = jagged_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), offsets, offsets, window=4)
    assert out.dtype == torch.bfloat16 and torch.equal(out, expected)
    out.sum().backward()
    assert q.grad is not None and q.grad.dtype == torch.float32 and q.grad.isfinite().all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [0, 2])
def test_gradcheck(causal: bool, window: int) -> None:
    lengths = [2, 0, 3, 1, 3]
    offsets = offsets_of(lengths)
    inputs = tuple(draw(9, seed=s, heads=2) for s in range(3))
    assert torch.autograd.gradcheck(
        lambda q, k, v: jagged_attention(q, k, v, offsets, offsets, causal=causal, window=window), inputs
    )


def test_gradcheck_of_several_blocks_under_a_window() -> None:
    offsets = offsets_of([70, 33])
    inputs = tuple(draw(103, seed=s, heads=1)[..., :1].detach().requires_grad_() for s in range(3))
    assert torch.autograd.gradcheck(
        lambda q, k, v: jagged_attention(q, k, v, offsets, offsets, window=3), inputs
    )


def test_gradcheck_of_seeds_and_a_scale() -> None:
    offsets = offsets_of([2, 0, 3])
    inputs = (draw(2, heads=2), draw(5, seed=1, heads=2), draw(5, seed=2, heads=2))
    assert torch.autograd.gradcheck(
        lambda q, k, v: jagged_attention(q, k, v, None, offsets, scale=0.7), inputs
    )


def test_seeds_equal_reference_and_share_one_gradient() -> None:
    offsets = offsets_of(LENGTHS)
    inputs = [draw(4), draw(sum(LENGTHS), seed=1), draw(sum(LENGTHS), seed=2)]
    got = run(jagged_attention, inputs, None, offsets)
    assert got[0].shape == (len(LENGTHS), 4, HEADS, WIDTH)
    assert got[1].shape == (4, HEADS, WIDTH)
    for mine, theirs in zip(got, run(reference, inputs, None, offsets), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_rows_without_keys_give_exact_zeros_and_zero_gradients() -> None:
    inputs = [draw(3, torch.float32), draw(4, torch.float32, seed=1), draw(4, torch.float32, seed=2)]
    q_offsets, k_offsets = offsets_of([2, 1, 0]), offsets_of([0, 1, 3])
    out, dq, dk, dv = run(jagged_attention, inputs, q_offsets, k_offsets)
    assert torch.equal(out[:2], torch.zeros(2, HEADS, WIDTH))
    assert torch.equal(dq[:2], torch.zeros(2, HEADS, WIDTH))
    assert torch.equal(dk[1:], torch.zeros(3, HEADS, WIDTH))
    assert torch.equal(dv[1:], torch.zeros(3, HEADS, WIDTH))
    assert out[2].abs().sum() > 0 and dv[0].abs().sum() > 0


def test_a_nan_in_one_row_leaves_the_others_bit_identical() -> None:
    offsets = offsets_of([7, 7, 3])
    inputs = [draw(17, torch.float32, seed=s) for s in range(3)]
    clean = run(jagged_attention, inputs, offsets, offsets)
    inputs[1] = inputs[1].detach().clone()
    inputs[1][8] = torch.nan
    dirty = run(jagged_attention, inputs, offsets, offsets)
    for before, after in zip(clean, dirty, strict=True):
        assert torch.equal(before[:7], after[:7]) and torch.equal(before[14:], after[14:])
        assert after[7:14].isnan().any()


def test_repeats_are_bitwise_equal() -> None:
    q_offsets, k_offsets = offsets_of(LENGTHS), offsets_of(OTHER_LENGTHS)
    tokens = [sum(LENGTHS), sum(OTHER_LENGTHS), sum(OTHER_LENGTHS)]
    inputs = [draw(n, torch.float32, seed=s) for s, n in enumerate(tokens)]
    first = run(jagged_attention, inputs, q_offsets, k_offsets)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first, run(jagged_attention, inputs, q_offsets, k_offsets), strict=True)
    )


def test_inputs_that_are_views_are_read_rightly() -> None:
    lengths = [4, 1, 4]
    offsets = offsets_of(lengths)
    together = torch.randn(9, HEADS, 3 * WIDTH, generator=torch.Generator().manual_seed(0))
    views = list(together.split(WIDTH, dim=-1))
    got = run(jagged_attention, views, offsets, offsets)
    expected = run(jagged_attention, [x.contiguous() for x in views], offsets, offsets)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("k_lengths", "causal", "window"), [([4, 1, 0], False, 0), ([2, 0, 3], True, 0), ([2, 0, 3], False, 2)]
)
def test_opcheck(k_lengths: list[int], causal: bool, window: int, dtype: torch.dtype) -> None:
    q, k, v = (draw(5, dtype, seed=s) for s in range(3))
    arguments = (q, k, v, offsets_of([2, 0, 3]), offsets_of(k_lengths), causal, window, 0.25)
    torch.library.opcheck(softmax_attention, arguments)


def test_it_stays_whole_inside_a_compiled_function() -> None:
    offsets = offsets_of(LENGTHS)
    q, k, v = (draw(sum(LENGTHS), torch.float32, seed=s) for s in range(3))
    compiled = torch.compile(
        lambda q, k, v: jagged_attention(q, k, v, offsets, offsets) * 2, fullgraph=True, backend="eager"
    )
    torch.testing.assert_close(compiled(q, k, v), 2 * jagged_attention(q, k, v, offsets, offsets))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "tanh"}, "activation: got 'tanh', allowed: softmax, silu, gelu, relu2"),
        ({"q": torch.zeros(3, 2)}, r"got shapes \(3, 2\), \(3, 1, 4\), \(3, 1, 4\)"),
        ({"v": torch.zeros(2, 1, 4)}, r"allowed: \[Tq, H, E\], \[Tk, H, E\], \[Tk, H, E\]"),
        ({"v": torch.zeros(3, 1, 4).double()}, "allowed: one of float32, float64, bfloat16 for all three"),
        ({"q": torch.zeros(3, 1, 4).half()}, "got torch.float16"),
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
    arguments = {name: torch.zeros(3, 1, 4) for name in ("q", "k", "v")}
    with pytest.raises(ValueError, match=message):
        jagged_attention(**({"q_offsets": whole, "k_offsets": whole} | arguments | changes))  # type: ignore[arg-type]
