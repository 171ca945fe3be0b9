"""Speed of the operators in `kernels`, beside what one would write without them.

    python -m experiments.benchmarks.kernels [--save] [--only jagged_attention] [--device cuda] [--dry]

Each operator at its shapes, forward and with the backward pass, by every route that computes the same, which is checked
before the clock starts: on a CPU (one thread, processor time, float32) against padding, per-row and bucketed calls, the
eager definition and torch.compile; on a GPU (bfloat16) also against FlexAttention with its mask and varlen attention.

median_us            median of at least three steps; the routes take turns. Empty: more memory than the device has
ratio_to_best_stock  median of the fastest route that is not ours, over this route's: above 1 it beats all of them
floor_us             FLOPs at the device's measured peak or bytes at its measured bandwidth, whichever takes longer

Rows of attention have the mean and the largest length that their shape says; the others are exponential. An operator
whose tests fail gets no figure. With --save the table goes to experiments/results/kernels_<machine>.csv. With --dry
every route that needs no GPU is run once at a tiny shape, and nothing is timed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.kernels import attention, dense, losses, tables
from experiments.benchmarks.kernels.case import BOTH, OURS, Case
from experiments.benchmarks.kernels.clock import Floor, machine, medians
from experiments.pipeline.environment import ROOT
from experiments.studies import green
from experiments.studies.tables import replace_rows

OPERATORS: dict[str, Callable[[str, torch.dtype, bool], Iterator[Case]]] = {
    "embedding": tables.embedding,
    "jagged_attention": attention.attention,
    "jagged_mix": dense.mixes,
    "multitask_distillation": losses.distillation,
    "norm_ffn": dense.blocks,
    "wukong_fm": dense.interactions,
}
COLUMNS = ("op", "shape", "direction", "dtype", "route", "median_us", "ratio_to_best_stock", "floor_us")
DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}
PADDED_BAR = 9.0
"""How many times as fast as padded SDPA attention is to be on a CPU, forward and backward."""


def rows_of(case: Case, times: Mapping[str, float | None], floor: float) -> list[dict[str, Any]]:
    """The table's rows of one case.

    Args:
        case: what was timed.
        times: route to its median, microseconds; None where it does not fit the device.
        floor: microseconds.
    """
    stock = [time for name, time in times.items() if name != OURS and time is not None]
    best = min(stock, default=None)
    return [
        dict(
            zip(
                COLUMNS,
                (
                    *(case.op, case.shape, case.direction, case.dtype_name, route, time),
                    *(None if time is None or best is None else best / time, floor),
                ),
                strict=True,
            )
        )
        for route, time in times.items()
    ]


def verdicts(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """One line per shape of attention and bar, `met` or `MISSED`, of forward and backward on a CPU."""
    mine = [row for row in rows if (row["op"], row["direction"]) == ("jagged_attention", BOTH)]
    for shape in dict.fromkeys(row["shape"] for row in mine):
        times = {row["route"]: row["median_us"] for row in mine if row["shape"] == shape}
        if attention.SPLIT not in times:  # pooling has no bar
            continue
        ratio = times[attention.PADDED] / times[OURS]
        yield f"{_word(ratio >= PADDED_BAR)} {shape}: {ratio:.1f} times as fast as padded SDPA (bar: {PADDED_BAR:g})"
        name = min((attention.SPLIT, attention.BUCKETED), key=lambda route: times[route])
        ratio = times[name] / times[OURS]
        yield f"{_word(ratio >= 1)} {shape}: {ratio:.2f} times as fast as {name} (bar: 1)"


def _word(met: bool) -> str:
    return "met   " if met else "MISSED"


def _tests(operator: str) -> list[str]:
    return sorted(str(path) for path in (ROOT / "tests" / "kernels").glob(f"test_{operator}*.py"))


def _timed(operators: Iterable[str], device: str, seconds: float) -> Iterator[list[dict[str, Any]]]:
    """The rows of one case after the other.

    Raises:
        ArithmeticError: a route computes something else than ours.
    """
    floor = Floor(device)
    for operator in operators:
        torch.manual_seed(0)
        for case in OPERATORS[operator](device, DTYPES[device], False):
            _refuse_disagreement(case)
            yield rows_of(case, medians(case.routes, seconds, device), floor.microseconds(case))


def dry_run(operators: Iterable[str]) -> str:
    """Run every route that needs no GPU once, at a tiny shape; none is compiled.

    Returns:
        What was run, in words.

    Raises:
        ArithmeticError: a route computes something else than ours.
    """
    cases = routes = 0
    for operator in operators:
        torch.manual_seed(0)
        for case in OPERATORS[operator]("cpu", torch.float32, True):
            _refuse_disagreement(case)
            cases, routes = cases + 1, routes + len(case.routes)
    return f"{routes} routes of {cases} cases ran and agree; nothing was timed"


def _refuse_disagreement(case: Case) -> None:
    problem = case.disagreement()
    if problem:
        raise ArithmeticError(problem)


def _print(rows: Sequence[dict[str, Any]]) -> None:
    first, ours = rows[0], rows[0]["median_us"]
    of_floor = f"{100 * first['floor_us'] / ours:.0f} % of its speed" if ours else ""
    print(f"\n{first['op']}: {first['shape']}, {first['direction']}, {first['dtype']}")
    print(f"  {'floor':32} {first['floor_us']:12,.0f} us  {of_floor}")
    for row in rows:
        if row["median_us"] is None:
            print(f"  {row['route']:32} {'out of memory':>12}")
            continue
        ratio = row["ratio_to_best_stock"]
        print(
            f"  {row['route']:32} {row['median_us']:12,.0f} us  {ratio:6.2f}x the best stock route",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=list(OPERATORS), help="operators; all by default")
    parser.add_argument("--device", choices=list(DTYPES), default="cpu")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each route of a case")
    parser.add_argument("--save", action="store_true", help="write experiments/results/kernels_<machine>.csv")
    parser.add_argument("--dry", action="store_true", help="run every route once at a tiny shape instead")
    options = parser.parse_args(arguments)
    operators = options.only or list(OPERATORS)
    torch.set_num_threads(1)
    if options.dry:
        print(dry_run(operators))
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        print("--device: got cuda, allowed: cpu, because there is no GPU here", file=sys.stderr)
        return 2
    if not green.tests_pass([test for operator in operators for test in _tests(operator)]):
        print("The tests of what is timed fail, so there is no figure to show.", file=sys.stderr)
        return 1
    return _run(operators, options)


def _run(operators: Sequence[str], options: argparse.Namespace) -> int:
    table = []
    for rows in _timed(operators, options.device, options.seconds):
        _print(rows)
        table += rows
    for line in verdicts(table) if options.device == "cpu" else ():
        print(line)
    if options.save:
        path = Path(ROOT / "experiments" / "results" / f"kernels_{machine(options.device)}.csv")
        replace_rows(path, COLUMNS, table, ("op",))
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
