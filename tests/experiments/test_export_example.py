"""The example from one's own Parquet to scores runs as it stands, and is as short as it promises."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from tests.experiments.raw_ids import with_raw_ids
from tests.experiments.tiny_experiment import write_days

EXAMPLE = "experiments.examples.own_parquet"


def test_own_parquet_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = with_raw_ids(write_days(tmp_path / "data", rows=300))
    monkeypatch.setattr(sys, "argv", ["own_parquet.py", str(data), str(tmp_path / "work")])
    runpy.run_module(EXAMPLE, run_name="__main__")
    scored = [line.split() for line in capsys.readouterr().out.splitlines()[-2:]]
    assert [line[:2] for line in scored] == [["click", "300"], ["order", "300"]]


def test_importing_it_as_the_processes_that_train_do_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_module(EXAMPLE, run_name="__mp_main__")
    assert capsys.readouterr() == ("", "")


def test_it_is_short() -> None:
    path = Path(__file__).parents[2] / "experiments" / "examples" / "own_parquet.py"
    assert len(path.read_text().splitlines()) < 40
