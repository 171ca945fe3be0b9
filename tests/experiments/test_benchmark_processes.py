"""The benchmark of processes: its figures by hand, and none while tests are red."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from experiments.benchmarks import processes
from experiments.benchmarks.processes_work import Sharing


def options(**changes: object) -> argparse.Namespace:
    return argparse.Namespace(**{"processes": [2], "batch": 256, "repeats": 2} | changes)


def test_speedup_and_waiting_are_those_of_the_fastest_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, Sharing]] = []

    def measured(_: argparse.Namespace, number: int, sharing: Sharing, folder: Path) -> dict[str, float]:
        calls.append((number, sharing))
        slower = 1.0 if calls.count((number, sharing)) == 2 else 1.5
        seconds, spent = (2.0, 1.8) if number == 1 else (1.25, 2.2)
        return {"rows": 1000.0, "seconds": slower * seconds, "cpu_seconds": slower * spent}

    monkeypatch.setattr(processes, "measured", measured)
    alone, *together = processes.lines(options())

    # 500 rows a second alone, 800 together; 2.2 of 2 * 1.25 seconds are computed in.
    assert (alone["processes"], alone["tables"], alone["rows_per_s"], alone["speedup"]) == (
        1,
        "",
        "500",
        "1.00",
    )
    assert len(together) == len(processes.SHARINGS)
    for line, sharing in zip(together, processes.SHARINGS, strict=True):
        assert (line["processes"], line["tables"], line["dense"]) == (2, sharing.tables, sharing.dense)
        assert (line["rows_per_s"], line["speedup"]) == ("800", "1.60")
        assert (line["cpu_us_per_row"], line["waiting"]) == ("2200", "0.12")
    assert len(calls) == 2 * (1 + len(processes.SHARINGS))


def test_no_figure_while_tests_are_red(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processes, "tests_pass", lambda tested: False)
    monkeypatch.setattr("sys.argv", ["processes"])
    assert processes.main() == 1
    said = capsys.readouterr()
    assert not said.out and "The tests fail, so there is no figure to show." in said.err
