"""The last lines of a run: ten at most, the same figures as results.json, the report last."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.errors import UserError
from distill.results import read_results
from experiments.closing import closing_lines
from experiments.recorded import read_run
from tests.experiments.synthetic_run import write_synthetic_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_run(tmp_path_factory.mktemp("closing") / "a run", seeds=(0, 1), rows_per_day=150)


@pytest.fixture
def lines(folder: Path) -> list[str]:
    return closing_lines(folder, folder / "report.html")


def test_ten_lines_at_most_and_the_report_last(folder: Path, lines: list[str]) -> None:
    assert 6 <= len(lines) <= 10
    assert lines[-1] == f"Report: {folder}/report.html"
    assert all(line and "\n" not in line for line in lines)


def test_what_was_trained(lines: list[str]) -> None:
    # Teacher, and three channels on each of three surfaces, twice.
    assert lines[0] == "synthetic: 20 trainings of seeds 0, 1, progressive, lag 1, scored on days 9–11."


def test_a_frozen_schedule_has_no_lag(folder: Path) -> None:
    run = read_run(folder)
    run.config["schedule"]["kind"] = "frozen"
    assert run.schedule == "frozen"


def test_the_teachers_scores_are_those_of_results(folder: Path, lines: list[str]) -> None:
    rows = [
        row
        for row in read_results(folder / "results.json")["rows"]
        if (row["role"], row["vertical"], row["task"]) == ("teacher", "pooled", "conversion")
    ]
    ne, auc = (sum(row[name] for row in rows) / 2 for name in ("ne", "auc"))
    assert lines[1].startswith("Teacher on all verticals: click NE ")
    assert lines[1].endswith(f"; conversion NE {ne:.4f}, AUC {auc:.4f}.")


def test_processor_time_adds_up(lines: list[str]) -> None:
    # 290 and 291 s of the teacher; 19 and 20 s of each of nine students.
    assert "Processor time: 15 min 32 s, of which teachers 9 min 41 s and students 5 min 51 s." in lines


def test_folders_can_be_pasted(folder: Path, lines: list[str]) -> None:
    assert lines[-2] == f"Next: distill compare '{folder}', distill dashboard '{folder}'."


def test_offline_runs_are_named_when_there_are_some(folder: Path, lines: list[str]) -> None:
    assert not any("W&B" in line for line in lines)
    (folder / "wandb" / "offline-run-1").mkdir(parents=True)
    (found,) = [line for line in closing_lines(folder, folder / "r.html") if line.startswith("W&B")]
    assert f"wandb sync '{folder}/wandb'/offline-* sends them" in found


def test_a_folder_that_holds_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run folder: got"):
        closing_lines(tmp_path, tmp_path / "report.html")
