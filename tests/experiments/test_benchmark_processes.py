"""The benchmark of processes: its figures by hand, none while tests are red, none that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.benchmarks import processes
from experiments.benchmarks.processes_work import Figures, Form, total

APART, ROWS = Form(2, apart=True), Form(2, "row_wise", "ddp")
FORMS = [processes.ALONE, APART, ROWS]


def figures(rows: float, seconds: float, spent: float) -> Figures:
    return {"rows": rows, "seconds": seconds, "cpu_seconds": spent}


TURNS = [
    *(figures(1000, 2, 1.8), figures(2000, 2, 3.9), figures(1000, 1.25, 2.2)),
    # All are slower in the second turn, which goes backwards.
    *(figures(1000, 2.5, 2.5), figures(2000, 4, 4.0), figures(1000, 4, 2.0)),
    *(figures(1000, 2, 1.8), figures(2000, 2.5, 4.0), figures(1000, 1, 1.9)),
]


def test_speedups_are_taken_within_turns() -> None:
    alone, apart, shared = processes.lines(FORMS, TURNS, batch=256)
    # 500, 250 and 500 rows a second alone, 1000, 500 and 800 apart, 800, 400 and 1000 together.
    assert [alone[name] for name in ("processes", "tables", "turns", "rows_per_s")] == [1, "", 3, "500"]
    assert (apart["tables"], apart["rows_per_s"], apart["cpu_us_per_row"]) == ("apart", "800", "2000")
    assert (shared["tables"], shared["dense"], shared["rows_per_s"]) == ("row_wise", "ddp", "800")
    speedups = [[line[name] for name in ("speedup", "low", "high")] for line in (alone, apart, shared)]
    assert speedups == [["1.00"] * 3, ["2.00", "1.60", "2.00"], ["1.60", "1.60", "2.00"]]
    # 2.2 of 2 * 1.25 seconds are computed in, 2.5 of 2 * 2.5, 1.9 of 2 * 1.
    assert (shared["cpu_us_per_row"], shared["waiting"]) == ("2200", "0.12")


def test_rows_are_counted_once_where_a_model_is_shared() -> None:
    of_each = [figures(1000, 2, 1.5), figures(1000, 3, 1.0)]
    assert total(ROWS, of_each) == figures(1000, 2.5, 2.5)
    assert total(APART, of_each) == figures(2000, 2.5, 2.5)


def test_every_number_of_processes_is_measured_in_every_form() -> None:
    first, *others = processes.forms_of([2, 4])
    assert first == processes.ALONE and len(set(others)) == 10
    assert [form.processes for form in others] == [2] * 5 + [4] * 5


def measured(monkeypatch: pytest.MonkeyPatch, seconds_apart: float) -> int:
    """What the command returns when two apart take so long for twice the rows of one, which takes a second."""

    def figures_of(options: Any, folder: Path) -> list[Figures]:
        return [
            figures(2000, seconds_apart, 2) if form.apart else figures(1000, 1, 1)
            for form in processes.forms_of([2])
        ]

    def save(name: str, columns: Any, table: Any) -> str:
        return f"saved {name}"

    monkeypatch.setattr(processes, "tests_pass", lambda tested: True)
    monkeypatch.setattr(processes, "measured", figures_of)
    monkeypatch.setattr(processes, "save", save)
    monkeypatch.setattr("sys.argv", ["processes", "--turns", "1", "--save"])
    return processes.main()


def test_what_no_two_cores_give_is_shown_and_not_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measured(monkeypatch, 2 / 2.05) == 0
    assert "saved processes_" in capsys.readouterr().out
    assert measured(monkeypatch, 2 / 2.06) == 1
    said = capsys.readouterr()
    assert "2.06" in said.out and "saved" not in said.out
    assert "2 trainings that share nothing: got 2.06 times one, allowed: up to 2.05." in said.err


def test_no_figure_while_tests_are_red(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processes, "tests_pass", lambda tested: False)
    monkeypatch.setattr("sys.argv", ["processes"])
    assert processes.main() == 1
    said = capsys.readouterr()
    assert not said.out and "The tests fail, so there is no figure to show." in said.err
