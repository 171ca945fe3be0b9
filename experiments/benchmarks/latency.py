"""Latency of one request on one core: one user with a history, hundreds of candidates.

    python -m experiments.benchmarks.latency [--history 200] [--candidates 500] [--repeats 300] [--save]

The eager modules are the training ones, in evaluation: every candidate is an example with the user's features and
history of its own. An exported student looks the user up, pools the history, and computes the user's columns of its
first layer, once. The reference student is DeepFM with embeddings of 16, an MLP 256-128, 20 features (5 of them the
user's), 4 dense ones and a pooled history. With --save the tests of teachers, kernels and exports run first, and the
table goes to experiments/results/latency_<machine>.csv.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from distill.batch import Batch, Events
from distill.protocols import Architecture
from distill.schema import FeatureSchema
from experiments.benchmarks.results import machine, save
from experiments.benchmarks.synthetic import make_batch, make_schema
from experiments.pipeline.environment import ROOT
from experiments.studies.green import tests_pass
from students import deepfm
from students.config import DeepFMConfig
from students.export.rows import as_tensors, inputs_of, table_of
from students.export.serve import serve
from students.export.signature import Precision
from students.export.trace import compile_program, load_compiled, trace
from teachers import gem
from teachers.config import GEMConfig

COLUMNS = ("model", "backend", "precision", "history", "candidates", "p50_ms", "p99_ms", "candidates_per_s")
USER_FEATURES = 5
BAR_FASTER, BAR_P99_MS = 4.0, 10.0
EXPORT_TESTS = (
    "tests/students/test_export.py",
    "tests/students/test_export_once.py",
    "tests/experiments/test_export.py",
)
Case = tuple[str, str, str, Callable[[], object], int]


def make_request(history: int, candidates: int) -> tuple[FeatureSchema, Batch]:
    """A schema, and a training batch of candidates that share a user: its features and its history."""
    schema = make_schema([10_000] * 20, dense=4)
    users = [f"feature_{place}" for place in range(1, USER_FEATURES + 1)]
    sparse = {
        name: dataclasses.replace(feature, group="user" if name in users else "item")
        for name, feature in schema.sparse.items()
    }
    schema = dataclasses.replace(schema, sparse=sparse)
    batch = make_batch(schema, [history] * candidates, seed=0, teacher=False)
    ids = batch.sparse.values().view(len(sparse), candidates).clone()
    ids[1 : USER_FEATURES + 1] = ids[1 : USER_FEATURES + 1, :1]
    jagged = KeyedJaggedTensor.from_lengths_sync(
        list(sparse), ids.flatten(), torch.ones(ids.numel(), dtype=torch.int64)
    )
    found = batch.history
    assert found is not None
    one = {
        name: getattr(found, name)[:history].repeat(candidates, *[1] * (getattr(found, name).dim() - 1))
        for name in ("item", "time", "domain", "labels")
    }
    return schema, dataclasses.replace(batch, sparse=jagged, history=Events(found.offsets, **one))


def request_arguments(inputs: dict[str, np.ndarray], history: int) -> list[Tensor]:
    """Of inputs of which every row has a user of its own, the same with one user."""
    shared = dict(inputs)
    shared["user"] = np.zeros_like(inputs["user"])
    shared["user_values"] = inputs["user_values"][:1]
    shared["history_items"] = inputs["history_items"][:history]
    shared["history_offsets"] = np.array([0, history])
    return as_tensors(shared)


def build_models(schema: FeatureSchema, history: int) -> tuple[Architecture, Architecture]:
    """The reference student, and GEM in its default size."""
    common = {
        "schema": schema,
        "tasks": schema.task_names,
        "features": tuple(schema.sparse),
        "dense_features": schema.dense,
        "seed": 0,
        "table_learning_rate": 0.02,
    }
    student = deepfm.build(DeepFMConfig(history_length=history), **common)
    return student.eval(), gem.build(GEMConfig(history_length=history), **common).eval()


def cases(history: int, candidates: int, folder: Path) -> Iterator[Case]:
    """What is measured: model, backend, precision, one call, and by how much its repeats are divided."""
    schema, batch = make_request(history, candidates)
    student, teacher = build_models(schema, history)
    expected = student(batch).logits
    yield "student", "eager", "fp32", lambda: student(batch), 1
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    for precision in precisions:
        served = serve(student, precision)
        inputs = inputs_of(served.signature, table_of(batch, served.signature))
        arrays = list(served.arrays.values())
        program = trace(served.module, [*arrays, *as_tensors(inputs)])
        compile_program(program, folder / f"{precision}.pt2")
        run, arguments = load_compiled(folder / f"{precision}.pt2"), request_arguments(inputs, history)
        difference = (run(*arrays, *arguments) - expected).abs().max().item()
        assert difference < (1e-5 if precision == "fp32" else 1e-2), f"{precision} differs by {difference}"
        yield "student", "exported", precision, partial(run, *arrays, *arguments), 1
    yield "teacher", "eager", "fp32", lambda: teacher(batch), 10


def measure(case: Case, history: int, candidates: int, repeats: int) -> dict[str, object]:
    """One line of the table."""
    model, backend, precision, call, slower = case
    count = max(repeats // slower, 5)
    with torch.no_grad():
        for _ in range(max(count // 10, 2)):
            call()
        times = []
        for _ in range(count):
            start = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - start))
    p50, p99 = np.percentile(times, [50, 99])
    speed = round(1e3 * candidates / p50)
    values = (model, backend, precision, history, candidates, f"{p50:.3f}", f"{p99:.3f}", speed)
    return dict(zip(COLUMNS, values, strict=True))


def verdict(rows: list[dict[str, object]]) -> list[str]:
    """The bars, held against the table."""
    by = {(row["model"], row["backend"], row["precision"]): row for row in rows}
    eager = float(str(by["student", "eager", "fp32"]["p50_ms"]))
    lines = []
    for precision in ("fp32", "int8"):
        row = by["student", "exported", precision]
        faster, p99 = eager / float(str(row["p50_ms"])), float(str(row["p99_ms"]))
        met = "met" if faster >= BAR_FASTER and p99 < BAR_P99_MS else "missed"
        lines.append(
            f"{precision}: {faster:.1f} times the eager module (bar {BAR_FASTER:g}), p99 {p99:.2f} ms (bar "
            f"{BAR_P99_MS:g}): {met}"
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--history", type=int, default=200, help="events of the user")
    parser.add_argument("--candidates", type=int, default=500, help="candidates of a request")
    parser.add_argument("--repeats", type=int, default=300, help="requests per figure; the teacher a tenth")
    parser.add_argument("--save", action="store_true", help="write experiments/results/latency_<machine>.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    exports = [sys.executable, "-m", "pytest", "-q", *EXPORT_TESTS]
    if options.save and not (tests_pass() and subprocess.run(exports, cwd=ROOT).returncode == 0):
        print("The tests fail, so there is no figure to save.", file=sys.stderr)
        return 1
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(options.history, options.candidates, Path(folder)):
            rows.append(measure(case, options.history, options.candidates, options.repeats))
            print("".join(f"{value!s:>17}" for value in rows[-1].values()), flush=True)
    print("\n".join(verdict(rows)))
    if options.save:
        print(save(f"latency_{machine()}", COLUMNS, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
