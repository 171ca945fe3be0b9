"""The latency benchmark measures the same answer: a request of one user is what its candidates are one by one."""

from __future__ import annotations

import torch

from experiments.benchmarks.latency import build_models, make_request, request_arguments, verdict
from students.export.rows import inputs_of, table_of
from students.export.serve import serve


def test_request_of_one_user_gives_the_candidates_logits() -> None:
    schema, batch = make_request(history=4, candidates=6)
    student, _ = build_models(schema, history=4)
    served = serve(student, "fp32")
    inputs = inputs_of(served.signature, table_of(batch, served.signature))
    arguments = request_arguments(inputs, history=4)
    assert arguments[1].shape == (1, 5)  # the user's features stand there once
    logits = served.module(*served.arrays.values(), *arguments)
    torch.testing.assert_close(logits, student(batch).logits, rtol=1e-6, atol=1e-6)


def test_verdict_names_a_missed_bar() -> None:
    def row(backend: str, precision: str, p50: float, p99: float) -> dict[str, object]:
        return {"model": "student", "backend": backend, "precision": precision, "p50_ms": p50, "p99_ms": p99}

    rows = [row("eager", "fp32", 8, 9), row("exported", "fp32", 2, 3), row("exported", "int8", 2, 10)]
    fp32, int8 = verdict(rows)
    assert fp32.endswith("met") and "4.0 times" in fp32
    assert int8.endswith("missed")
