"""Triton kernels of jagged attention, forward and backward, of every activation.

A program holds one tile of one head and walks along the tokens of the other side of its row: forward and the gradient
of the queries hold queries and meet keys, the gradients of keys and values hold keys and meet queries. No two programs
write to the same place, so that repeats are equal bit by bit. Sums are float32, and so are scores.

Along the walk three stretches follow one another: the first and the last hold pairs that do not see each other and
need a mask, the one between them does not.

Shape letters: M queries and N keys of a tile, E floats per head.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.jagged_attention.tiles import FIELDS

_FIELDS: tl.constexpr = tl.constexpr(FIELDS)
_LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
_LN_2: tl.constexpr = tl.constexpr(0.6931471805599453)
_SQRT_HALF: tl.constexpr = tl.constexpr(0.7071067811865476)
_GAUSS: tl.constexpr = tl.constexpr(0.3989422804014327)  # 1 / sqrt(2 pi)


@triton.jit
def _tile(tiles, heads):
    """Of this program: head, first place, begin and length of its own side, begin and length of the other side."""
    at = tiles + (tl.program_id(0) // heads) * _FIELDS
    first, length, others = (
        tl.load(at).to(tl.int32),
        tl.load(at + 2).to(tl.int32),
        tl.load(at + 4).to(tl.int32),
    )
    head = (tl.program_id(0) % heads).to(tl.int64)
    return head, first, tl.load(at + 1), length, tl.load(at + 3), others


@triton.jit
def _load(
    x,
    begin,
    first,
    length,
    stride,
    E: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_E: tl.constexpr,
    MASK: tl.constexpr,
):
    """[ROWS, BLOCK_E] of one head from place `first` of a row on; zeros behind its end, if MASK, and beyond E."""
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK_E)[None, :]
    at = x + (begin + first) * stride + row * stride + column
    if MASK and E != BLOCK_E:
        values = tl.load(at, mask=(row < length - first) & (column < E), other=0.0)
    elif MASK:
        values = tl.load(at, mask=row < length - first, other=0.0)
    elif E != BLOCK_E:
        values = tl.load(at, mask=column < E, other=0.0)
    else:
        values = tl.load(at)
    return values


@triton.jit
def _store(
    x, values, begin, first, length, stride, E: tl.constexpr, ROWS: tl.constexpr, BLOCK_E: tl.constexpr
):
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK_E)[None, :]
    at = x + (begin + first) * stride + row * stride + column
    tl.store(at, values.to(x.dtype.element_ty), mask=(row < length - first) & (column < E))


@triton.jit
def _stretches(
    first,
    others,
    behind,
    ahead,
    OWN: tl.constexpr,
    STEP: tl.constexpr,
    BEHIND: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """Where the three stretches of a walk begin, and where they end.

    Place i of the tile sees the places i - behind ... i + ahead of the other side; without BEHIND or AHEAD that side
    has no bound. The middle is what every place of the tile sees, in whole steps.
    """
    start, middle, middle_end, end = 0, 0, others // STEP * STEP, others
    if BEHIND:
        start = tl.maximum(first - behind, 0) // STEP * STEP
        middle = (tl.maximum(first + OWN - 1 - behind, 0) + STEP - 1) // STEP * STEP
    if AHEAD:
        middle_end = tl.minimum(others, first + ahead + 1) // STEP * STEP
        end = tl.minimum(others, first + OWN + ahead)
    middle_end = tl.maximum(middle, middle_end)
    return (start, middle, middle_end), (tl.minimum(middle, end), middle_end, end)


@triton.jit
def _sees(query, key, keys, window, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """Whether a query sees a key, by their places."""
    seen = key < keys
    if CAUSAL:
        seen = seen & (key <= query)
    if WINDOW:
        seen = seen & (query - key < window)
    if WINDOW and not CAUSAL:
        seen = seen & (key - query < window)
    return seen


@triton.jit
def _activate(s, ACTIVATION: tl.constexpr):
    """The activation of scores, not yet divided by the number of keys; 0 of 0."""
    if ACTIVATION == "silu":
        p = s * tl.sigmoid(s)
    elif ACTIVATION == "gelu":
        p = 0.5 * s * (1.0 + tl.erf(s * _SQRT_HALF))
    else:
        tl.static_assert(ACTIVATION == "relu2")
        positive = tl.where(s < 0, 0.0, s)
        p = positive * positive
    return p


@triton.jit
def _derive(s, ACTIVATION: tl.constexpr):
    """The activation of scores and its derivative."""
    if ACTIVATION == "silu":
        sigmoid = tl.sigmoid(s)
        p, slope = s * sigmoid, sigmoid * (1.0 + s * (1.0 - sigmoid))
    elif ACTIVATION == "gelu":
        share = 0.5 * (1.0 + tl.erf(s * _SQRT_HALF))
        p, slope = s * share, share + s * _GAUSS * tl.exp(-0.5 * s * s)
    else:
        tl.static_assert(ACTIVATION == "relu2")
        positive = tl.where(s < 0, 0.0, s)
        p, slope = positive * positive, 2.0 * positive
    return p, slope


@triton.jit
def forward_kernel(
    q, k, v, out, lse, tiles, heads, window, scale,
    q_stride, q_head, k_stride, k_head, v_stride, v_head,
    E: tl.constexpr, BLOCK_E: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    ACTIVATION: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Output of a tile of queries, and for softmax the log-sum-exp of their scores."""
    head, first, begin, length, key_begin, keys = _tile(tiles, heads)
    if (first < 0) | (first >= length):
        return
    q_tile = _load(q + head * q_head, begin, first, length, q_stride, E, M, BLOCK_E, True)
    query = first + tl.arange(0, M)[:, None]
    total = tl.zeros([M, BLOCK_E], tl.float32)
    highest = tl.full([M], float("-inf"), tl.float32)
    mass = tl.zeros([M], tl.float32)
    ahead = 0 if CAUSAL else window - 1
    begins, ends = _stretches(first, keys, window - 1, ahead, M, N, WINDOW, CAUSAL or WINDOW)
    for stretch in tl.static_range(0 if WINDOW else 1, 3):
        for at in range(begins[stretch], ends[stretch], N):
            k_tile = _load(k + head * k_head, key_begin, at, keys, k_stride, E, N, BLOCK_E, stretch != 1)
            v_tile = _load(v + head * v_head, key_begin, at, keys, v_stride, E, N, BLOCK_E, stretch != 1)
            s = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale
            if stretch != 1:
                seen = _sees(query, at + tl.arange(0, N)[None, :], keys, window, CAUSAL, WINDOW)
            if ACTIVATION == "softmax":
                s = s * _LOG2_E
                if stretch != 1:
                    s = tl.where(seen, s, float("-inf"))
                higher = tl.maximum(highest, tl.max(s, 1))
                # A query that has seen no key yet has no highest score.
                finite = tl.where(higher == float("-inf"), 0.0, higher)
                p = tl.exp2(s - finite[:, None])
                shrink = tl.exp2(highest - finite)
                mass = mass * shrink + tl.sum(p, 1)
                total = total * shrink[:, None]
                highest = higher
            else:
                p = _activate(s, ACTIVATION)
                if stretch != 1:
                    p = tl.where(seen, p, 0.0)
            total = tl.dot(p.to(v_tile.dtype), v_tile, total, input_precision="ieee")
    if ACTIVATION == "softmax":
        empty = mass == 0.0
        total = total / tl.where(empty, 1.0, mass)[:, None]
        sums = tl.where(empty, float("-inf"), highest * _LN_2 + tl.log(tl.where(empty, 1.0, mass)))
        place = tl.arange(0, M)
        tl.store(lse + (begin + first + place) * heads + head, sums, mask=place < length - first)
    elif ACTIVATION == "silu":
        total = total / tl.maximum(keys, 1)
    _store(out + head * E, total, begin, first, length, heads * E, E, M, BLOCK_E)


@triton.jit
def _score_gradients(s, dp, peak, delta, seen, scale, ACTIVATION: tl.constexpr, MASK: tl.constexpr):
    """P and the gradient of the scaled scores, from scores without their scale and the gradient of P.

    peak is the log-sum-exp, delta the product of an output and its gradient, both of softmax only.
    """
    if ACTIVATION == "softmax":
        p = tl.exp2(s * scale * _LOG2_E - peak * _LOG2_E)
        slope, dp = p, dp - delta
    else:
        p, slope = _derive(s * scale, ACTIVATION)
    if MASK:
        p, slope = tl.where(seen, p, 0.0), tl.where(seen, slope, 0.0)
    return p, slope * dp


@triton.jit
def backward_queries_kernel(
    grad, q, k, v, out, lse, delta, dq, tiles, heads, window, scale,
    grad_stride, grad_head, q_stride, q_head, k_stride, k_head, v_stride, v_head,
    E: tl.constexpr, BLOCK_E: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    ACTIVATION: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Gradient of a tile of queries; for softmax also delta, which the gradients of keys need."""
    head, first, begin, length, key_begin, keys = _tile(tiles, heads)
    if (first < 0) | (first >= length):
        return
    q_tile = _load(q + head * q_head, begin, first, length, q_stride, E, M, BLOCK_E, True)
    grad_tile = _load(grad + head * grad_head, begin, first, length, grad_stride, E, M, BLOCK_E, True)
    query = first + tl.arange(0, M)[:, None]
    peak, product = 0.0, 0.0
    if ACTIVATION == "softmax":
        out_tile = _load(out + head * E, begin, first, length, heads * E, E, M, BLOCK_E, True)
        place = tl.arange(0, M)
        at_place, inside = (begin + first + place) * heads + head, place < length - first
        products = tl.sum(grad_tile.to(tl.float32) * out_tile.to(tl.float32), 1)
        tl.store(delta + at_place, products, mask=inside)
        product = products[:, None]
        peak = tl.load(lse + at_place, mask=inside, other=0.0)[:, None]
    total = tl.zeros([M, BLOCK_E], tl.float32)
    ahead = 0 if CAUSAL else window - 1
    begins, ends = _stretches(first, keys, window - 1, ahead, M, N, WINDOW, CAUSAL or WINDOW)
    for stretch in tl.static_range(0 if WINDOW else 1, 3):
        for at in range(begins[stretch], ends[stretch], N):
            k_tile = _load(k + head * k_head, key_begin, at, keys, k_stride, E, N, BLOCK_E, stretch != 1)
            v_tile = _load(v + head * v_head, key_begin, at, keys, v_stride, E, N, BLOCK_E, stretch != 1)
            s = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee")
            dp = tl.dot(grad_tile, tl.trans(v_tile), input_precision="ieee")
            seen = _sees(query, at + tl.arange(0, N)[None, :], keys, window, CAUSAL, WINDOW)
            _, ds = _score_gradients(s, dp, peak, product, seen, scale, ACTIVATION, stretch != 1)
            total = tl.dot(ds.to(k_tile.dtype), k_tile, total, input_precision="ieee")
    if ACTIVATION == "silu":
        total = total / tl.maximum(keys, 1)
    _store(dq + head * E, total * scale, begin, first, length, heads * E, E, M, BLOCK_E)


@triton.jit
def backward_keys_kernel(
    grad, q, k, v, lse, delta, dk, dv, tiles, heads, window, scale,
    grad_stride, grad_head, q_stride, q_head, k_stride, k_head, v_stride, v_head,
    E: tl.constexpr, BLOCK_E: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    ACTIVATION: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of keys and values; scores are [N, M] here."""
    head, first, begin, length, query_begin, queries = _tile(tiles, heads)
    if (first < 0) | (first >= length):
        return
    k_tile = _load(k + head * k_head, begin, first, length, k_stride, E, N, BLOCK_E, True)
    v_tile = _load(v + head * v_head, begin, first, length, v_stride, E, N, BLOCK_E, True)
    key = first + tl.arange(0, N)[:, None]
    dk_total, dv_total = tl.zeros([N, BLOCK_E], tl.float32), tl.zeros([N, BLOCK_E], tl.float32)
    behind = 0 if CAUSAL else window - 1
    begins, ends = _stretches(first, queries, behind, window - 1, N, M, CAUSAL or WINDOW, WINDOW)
    for stretch in tl.static_range(0 if CAUSAL or WINDOW else 1, 3):
        for at in range(begins[stretch], ends[stretch], M):
            # Behind the last query all is zero, so that it adds nothing.
            q_tile = _load(q + head * q_head, query_begin, at, queries, q_stride, E, M, BLOCK_E, stretch != 1)
            grad_tile = _load(
                grad + head * grad_head, query_begin, at, queries, grad_stride, E, M, BLOCK_E, stretch != 1
            )
            peak, product = 0.0, 0.0
            if ACTIVATION == "softmax":
                place = tl.arange(0, M)
                at_place, inside = (query_begin + at + place) * heads + head, place < queries - at
                peak = tl.load(lse + at_place, mask=inside, other=0.0)[None, :]
                product = tl.load(delta + at_place, mask=inside, other=0.0)[None, :]
            s = tl.dot(k_tile, tl.trans(q_tile), input_precision="ieee")
            dp = tl.dot(v_tile, tl.trans(grad_tile), input_precision="ieee")
            seen = _sees(at + tl.arange(0, M)[None, :], key, length, window, CAUSAL, WINDOW)
            p, ds = _score_gradients(s, dp, peak, product, seen, scale, ACTIVATION, stretch != 1)
            dv_total = tl.dot(p.to(grad_tile.dtype), grad_tile, dv_total, input_precision="ieee")
            dk_total = tl.dot(ds.to(q_tile.dtype), q_tile, dk_total, input_precision="ieee")
    if ACTIVATION == "silu":
        dk_total, dv_total = dk_total / tl.maximum(length, 1), dv_total / tl.maximum(length, 1)
    _store(dk + head * E, dk_total * scale, begin, first, length, heads * E, E, N, BLOCK_E)
    _store(dv + head * E, dv_total, begin, first, length, heads * E, E, N, BLOCK_E)
