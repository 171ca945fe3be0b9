"""Speed of the operators in `kernels` on one CPU thread, beside what one would write without them.

    python -m experiments.benchmarks.kernels_cpu [--repeats 20] [--only embedding]

Every row is forward and backward (for tables: with the update) in ms of processor time, the shortest of the
repeats, and how many times as long the alternative takes. An operator whose tests fail gets no figure.
Lengths are exponential, cut at the maximum.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torchrec import KeyedJaggedTensor

from kernels.embedding import EmbeddingTables
from kernels.jagged_attention import jagged_attention
from kernels.wukong_fm import wukong_fm
from kernels.wukong_fm.reference import wukong_fm as wukong_fm_reference

ROOT = Path(__file__).parents[2]
FEATURES, ROWS, DIM, BATCH = 20, 20_000, 16, 512
HEADS, HEAD_DIM = 4, 16
# (B, mean length, largest length)
HISTORIES = [(64, 100, 1000), (1024, 20, 200), (512, 50, 500)]

# What is measured, the operator, the alternative and what the alternative is.
Row = tuple[str, Callable[[], None], Callable[[], None], str]


def milliseconds(step: Callable[[], None], repeats: int) -> float:
    """Shortest processor time of a step: what others do on the machine can only add to it."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        step()
        times.append(1e3 * (time.process_time() - start))
    return min(times)


def table_batched(features: int, shared: bool = False) -> SplitTableBatchedEmbeddingBagsCodegen:
    """fbgemm's operator itself; `shared` puts all rows into one table that every feature looks into."""
    rows, tables = (ROWS * features, 1) if shared else (ROWS, features)
    return SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, DIM, EmbeddingLocation.HOST, ComputeDevice.CPU)] * tables,
        feature_table_map=[0] * features if shared else None,
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.02,
    )


def embedding() -> Iterator[Row]:
    """The front against fbgemm's tables, one per feature (as torchrec would make them) and all in one."""
    names = [f"feature_{i}" for i in range(FEATURES)]
    ids = torch.randint(0, ROWS, (FEATURES, BATCH))
    lengths = torch.ones(FEATURES * BATCH, dtype=torch.int64)
    batch = KeyedJaggedTensor(names, ids.view(-1), lengths=lengths, stride=BATCH)
    front = EmbeddingTables(dict.fromkeys(names, ROWS), DIM, 0, 0.02, history_feature=names[0])

    def look_up(history: Tensor | None) -> None:
        found = front(batch, history)
        outputs = [found.features] if found.events is None else [found.features, found.events]
        torch.autograd.backward(outputs, [torch.ones_like(out) for out in outputs])

    def raw(tables: SplitTableBatchedEmbeddingBagsCodegen, values: Tensor) -> None:
        found = tables(values, torch.arange(values.numel() + 1))
        found.backward(torch.ones_like(found))

    per_feature, in_one, of_history = table_batched(FEATURES), table_batched(FEATURES, True), table_batched(1)
    moved = (ids + ROWS * torch.arange(FEATURES)[:, None]).view(-1)
    name = f"{FEATURES} tables x {ROWS} x {DIM}, B {BATCH}"
    yield name, lambda: look_up(None), lambda: raw(per_feature, ids.view(-1)), "fbgemm, a table per feature"
    yield name, lambda: look_up(None), lambda: raw(in_one, moved), "fbgemm, all rows in one table"
    history = torch.randint(0, ROWS, (10_000,))
    target_and_history = torch.cat([ids[0], history])

    def two_calls() -> None:
        raw(per_feature, ids.view(-1))
        raw(of_history, target_and_history)

    yield f"{name}, T {len(history)}", lambda: look_up(history), two_calls, "fbgemm, two calls"


def attention() -> Iterator[Row]:
    """Jagged attention against padding to the longest row."""
    for rows, mean, largest in HISTORIES:
        lengths = (-mean * torch.rand(rows).log()).long().clamp(max=largest)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        q, k, v = (torch.randn(int(offsets[-1]), HEADS, HEAD_DIM, requires_grad=True) for _ in range(3))
        keep = torch.arange(int(lengths.max())) < lengths[:, None]
        for causal in (False, True):
            name = f"B {rows}, lengths {mean} on average, {int(lengths.max())} at most{', causal' * causal}"

            def jagged(
                q: Tensor = q, k: Tensor = k, v: Tensor = v, o: Tensor = offsets, c: bool = causal
            ) -> None:
                torch.autograd.grad(jagged_attention(q, k, v, o, o, causal=c).sum(), [q, k, v])

            def padded(
                q: Tensor = q, k: Tensor = k, v: Tensor = v, keep: Tensor = keep, c: bool = causal
            ) -> None:
                full = [
                    x.new_zeros(*keep.shape, HEADS, HEAD_DIM).masked_scatter(keep[..., None, None], x)
                    for x in (q, k, v)
                ]
                heads = [x.transpose(1, 2) for x in full]
                # Padding lies at the end: a causal query with a place in the row never sees it.
                mask = None if c else keep[:, None, None, :]
                out = scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=mask, is_causal=c)
                torch.autograd.grad(out.transpose(1, 2)[keep].sum(), [q, k, v])

            yield name, jagged, padded, "padded SDPA"


def interactions() -> Iterator[Row]:
    """Wukong's interactions against autograd on their definition."""
    for batch, n, width, rank in [(512, 24, 16, 8), (512, 32, 32, 16), (2048, 32, 32, 16)]:
        x, y, w = (
            torch.randn(size, requires_grad=True) for size in [(batch, n, width), (n, rank), (rank, n)]
        )

        def step(function: Callable, x: Tensor = x, y: Tensor = y, w: Tensor = w) -> None:
            outputs = function(x, y, w)
            torch.autograd.grad(outputs, [x, y, w], [torch.ones_like(out) for out in outputs])

        name = f"B {batch}, N {n}, D {width}, K {rank}, L {rank}"
        yield name, partial(step, wukong_fm), partial(step, wukong_fm_reference), "autograd on the definition"


KERNELS = {"embedding": embedding, "jagged_attention": attention, "wukong_fm": interactions}


def tests_pass(kernel: str) -> bool:
    """Run the operator's tests."""
    tests = f"tests/kernels/test_{kernel}.py"
    return subprocess.run([sys.executable, "-m", "pytest", "-q", tests], cwd=ROOT).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20, help="steps per figure")
    parser.add_argument("--only", choices=list(KERNELS), help="one operator")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for kernel in [options.only] if options.only else KERNELS:
        if not tests_pass(kernel):
            print(f"{kernel}: its tests fail, so there is no figure to show", file=sys.stderr)
            return 1
        print(f"\n{kernel}\n{'':64} {'ms':>8} {'other ms':>9} {'ratio':>6}")
        for name, mine, other, what in KERNELS[kernel]():
            ours, theirs = milliseconds(mine, options.repeats), milliseconds(other, options.repeats)
            print(f"{name:64} {ours:8.2f} {theirs:9.2f} {theirs / ours:6.1f}  {what}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
