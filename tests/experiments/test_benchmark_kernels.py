"""The benchmark of the operators: its routes compute the same, its figures are what it says, nothing red is timed."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.benchmarks.kernels import __main__ as command
from experiments.benchmarks.kernels import attention, attention_routes, clock
from experiments.benchmarks.kernels.attention import draw_lengths
from experiments.benchmarks.kernels.case import BOTH, OURS, Case, both_directions
from experiments.studies import green
from kernels.jagged_attention.reference import jagged_attention

CPU_ROUTES = [
    attention_routes.padded,
    attention_routes.padded_eager,
    attention_routes.split,
    attention_routes.bucketed,
]


def rows(causal: bool, lengths: tuple[int, ...] = (3, 0, 40, 1, 17, 16)) -> attention_routes.Rows:
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    return attention_routes.Rows(offsets, list(lengths), causal)


def inputs(of: attention_routes.Rows) -> list[torch.Tensor]:
    torch.manual_seed(0)
    size = (sum(of.lengths), 2, 8)
    return [torch.randn(size, dtype=torch.float64, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("route", CPU_ROUTES, ids=lambda route: route.__name__)
def test_routes_of_attention_equal_the_definition(route: Any, causal: bool) -> None:
    of = rows(causal)
    q, k, v = leaves = inputs(of)
    expected = jagged_attention(q, k, v, of.offsets, of.offsets, causal=causal)
    found = route(of)(*leaves)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves, grad), torch.autograd.grad(expected, leaves, grad)
    )


def test_padded_pooling_equals_the_definition() -> None:
    of = rows(causal=False, lengths=(3, 1, 40))
    _, k, v = inputs(of)
    seeds = torch.randn(4, 2, 8, dtype=torch.float64)
    expected = jagged_attention(seeds, k, v, None, of.offsets)
    torch.testing.assert_close(attention_routes.padded_pooling(of)(seeds, k, v), expected)


@pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile")
@pytest.mark.parametrize("causal", [False, True])
def test_flex_attention_equals_the_definition(causal: bool) -> None:
    """Forward, uncompiled: FlexAttention has no backward pass on a CPU."""
    of = rows(causal)
    q, k, v = (x.detach().float() for x in inputs(of))
    expected = jagged_attention(q, k, v, of.offsets, of.offsets, causal=causal)
    torch.testing.assert_close(attention_routes.flex(of, compiled=False)(q, k, v), expected)


@pytest.mark.parametrize(("count", "mean", "most"), [(64, 100, 1000), (1024, 20, 200), (512, 50, 500)])
def test_lengths_have_the_mean_and_the_largest_that_they_say(count: int, mean: int, most: int) -> None:
    lengths = draw_lengths(count, mean, most)
    assert int(lengths.max()) == most and int(lengths.min()) >= 0
    assert lengths.float().mean().item() == pytest.approx(mean, abs=0.2)


def test_a_dry_run_runs_everything_and_times_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "_cpu_seconds", None)
    assert command.main(["--dry"]) == 0
    # Per direction of attention 5 routes, of its pooling and the others 2; of tables 3 and 2.
    assert capsys.readouterr().out == "45 routes of 16 cases ran and agree; nothing was timed\n"


def square(x: torch.Tensor) -> torch.Tensor:
    return x * x


def test_a_route_that_computes_something_else_is_named() -> None:
    x = torch.linspace(1, 2, 5).requires_grad_()
    (case,) = both_directions("op", "5", [x], square, {"off": lambda x: x * x + x.detach() * x}, [BOTH])
    assert (found := case.disagreement()) is not None
    assert found.startswith("op, 5, forward+backward: off: result 0 is off by ")
    (case,) = both_directions("op", "5", [x], square, {"same": lambda x: x.square()}, [BOTH])
    assert case.disagreement() is None


def test_bytes_are_those_of_both_passes() -> None:
    x = torch.ones(5, requires_grad=True)
    forward, both = both_directions("op", "5", [x], square, {})
    # Read x, write the output; going back read x and the output's gradient, write that of x.
    assert (forward.bytes, both.bytes) == (2 * 20, 5 * 20)


def case(op: str = "jagged_attention", flops: int = 0, size: int = 8) -> Case:
    nothing = {name: lambda: () for name in (OURS, attention.PADDED, attention.SPLIT, attention.BUCKETED)}
    return Case(op, "B 2", BOTH, torch.float32, nothing, flops, size)


def test_ratios_are_to_the_best_stock_route() -> None:
    times = {OURS: 10.0, attention.PADDED: 95.0, attention.SPLIT: None, attention.BUCKETED: 20.0}
    table = command.rows_of(case(), times, 4.0)
    assert [row["ratio_to_best_stock"] for row in table] == [2.0, 20 / 95, None, 1.0]
    assert {row["floor_us"] for row in table} == {4.0} and tuple(table[0]) == command.COLUMNS


@pytest.mark.parametrize(
    ("split", "padded", "words"),
    [(10.0, 90.0, ["met", "met"]), (9.9, 90.0, ["met", "MISSED"]), (10.0, 89.9, ["MISSED", "met"])],
)
def test_bars(split: float, padded: float, words: list[str]) -> None:
    times = {OURS: 10.0, attention.PADDED: padded, attention.SPLIT: split, attention.BUCKETED: 11.0}
    table = command.rows_of(case(), times, 1.0)
    assert [line.split()[0] for line in command.verdicts(table)] == words


def test_the_floor_is_whichever_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock.Floor, "_peak", lambda self, dtype: 1e9)
    monkeypatch.setattr(clock.Floor, "_bandwidth", lambda self, moved: 1e6)
    floor = clock.Floor("cpu")
    assert floor.microseconds(case(flops=1_000_000, size=8)) == pytest.approx(1000.0)
    assert floor.microseconds(case(flops=1_000, size=8)) == pytest.approx(8.0)


def test_medians_of_steps_that_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = {"a": iter([1.0, 5.0, 3.0]), "b": iter([2.0] * 3)}
    order: list[str] = []

    def take(name: str) -> None:
        order.append(name)

    monkeypatch.setattr(clock, "_cpu_seconds", lambda step: next(durations[step.keywords["name"]]))
    found = clock.medians({name: partial(take, name=name) for name in "ab"}, 1.0, "cpu")
    assert found == {"a": 3e6, "b": 2e6} and order == ["a", "b"]


def test_what_does_not_fit_has_no_time() -> None:
    def too_large() -> None:
        raise torch.OutOfMemoryError("out of memory")

    assert clock.medians({"large": too_large}, 0.0, "cpu") == {"large": None}


def test_nothing_is_timed_while_tests_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def fail(tested: list[str]) -> bool:
        asked.append(tested)
        return False

    monkeypatch.setattr(green, "tests_pass", fail)
    assert command.main(["--only", "norm_ffn"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and "tests of what is timed fail" in said.err
    assert {Path(path).name for path in asked[0]} == {
        "test_norm_ffn.py",
        "test_norm_ffn_gpu.py",
        "test_norm_ffn_triton.py",
    }


def test_the_table_holds_what_was_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(green, "tests_pass", lambda tested: True)
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(command, "machine", lambda device: "here")
    monkeypatch.setitem(command.OPERATORS, "embedding", lambda *_: iter([case("embedding")]))
    assert command.main(["--only", "embedding", "--seconds", "0", "--save"]) == 0
    with (tmp_path / "experiments" / "results" / "kernels_here.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["route"] for row in table] == list(case().routes)
    assert all(row["op"] == "embedding" and float(row["floor_us"]) > 0 for row in table)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--device", "cuda"]) == 2
    assert "--device: got cuda, allowed: cpu" in capsys.readouterr().err
