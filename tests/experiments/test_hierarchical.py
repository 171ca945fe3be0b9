"""Teacher, domain teacher, student: each hop of the hierarchical route through the real command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from distill.cells import Cell, read_cells
from experiments.__main__ import main
from tests.experiments.tiny_experiment import EXPERIMENT, write_days, write_experiment

DOMAIN: dict[str, Any] = {
    "name": "apps",
    "architecture": "deepfm",
    "verticals": ["feed", "reels"],
    "channel": "ah",
    "options": {"dim": 4, "mlp": [8]},
    "optimizer": {"batch_size": 50, "learning_rate": 0.01},
}
STUDENT = EXPERIMENT["students"][0] | {"channels": ["ah"]}
CHANGES: dict[str, Any] = {
    "seeds": [0],
    "floor": False,
    "domain_teachers": [DOMAIN],
    "students": [STUDENT, STUDENT | {"name": "below", "route": "hierarchical"}],
    "schedule": {"tune_days": [4, 5], "test_days": []},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_days(tmp_path_factory.mktemp("data") / "mine", days=5, rows=300)


@pytest.fixture(scope="module")
def out(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert main(["run", str(write_experiment(folder / "a", data, folder / "cache", **CHANGES))]) == 0
    return folder / "a" / "out"


@pytest.fixture(scope="module")
def cells(out: Path) -> dict[str, Cell]:
    """Model, and for students vertical and channel, to cell."""
    named = {}
    for cell in read_cells(out / "cells.csv"):
        named[f"{cell.model} {cell.vertical} {cell.channel}" if cell.role == "student" else cell.model] = cell
    return named


def ids(path: Path) -> set[int]:
    return set(pq.read_table(path, columns=["example_id"])["example_id"].to_pylist())


def rows_of(data: Path, day: int, *domains: str) -> set[int]:
    """Ids of a day's rows of some surfaces."""
    table = pq.read_table(data / f"date=2026-01-{day:02d}", columns=["example_id", "domain"])
    pairs = zip(table["example_id"].to_pylist(), table["domain"].to_pylist(), strict=True)
    return {example_id for example_id, domain in pairs if domain in domains}


def test_domain_teacher_is_a_cell_of_its_surfaces(cells: dict[str, Cell]) -> None:
    cell = cells["apps"]
    assert (cell.role, cell.vertical, cell.route, cell.lag, cell.channel) == (
        *("domain_teacher", "feed+reels", "direct"),
        *(0, "ah"),
    )
    assert cell.domains == ("feed", "reels")


def test_domain_teacher_predicts_and_logs_its_surfaces_alone(
    out: Path, data: Path, cells: dict[str, Cell]
) -> None:
    expected = rows_of(data, 4, "feed", "reels")
    predicted = pq.read_table(out / "predictions" / cells["apps"].cell_id / "0.parquet")
    pairs = zip(predicted["example_id"].to_pylist(), predicted["day"].to_pylist(), strict=True)
    of_day = {example_id for example_id, day in pairs if day == 4}
    assert of_day == expected
    assert ids(out / "domain_teachers/apps/teacher_log/0/lag-1/day-0004.parquet") == expected
    assert ids(out / "teacher_log/0/lag-1/day-0004.parquet") == rows_of(data, 4, "feed", "reels", "stories")


def test_domain_teacher_learns_from_the_teacher_s_log(out: Path, cells: dict[str, Cell]) -> None:
    """From the first day that is logged on; before it there is nothing to learn."""
    report = json.loads((out / "checkpoints" / cells["apps"].cell_id / "0" / "report.json").read_text())
    assert [day["means"]["ah/loss"] > 0 for day in report["days"]] == [False, False, True, True]


def test_logs_of_both_hops_have_the_lag(out: Path) -> None:
    for folder in (out, out / "domain_teachers" / "apps"):
        manifest = json.loads((folder / "teacher_log/0/lag-1/day-0004.json").read_text())
        assert (manifest["trained_through"], manifest["lag"]) == (2, 1)
    assert manifest["teacher"] == "apps"


def test_routes_differ_in_what_is_learnt_and_in_nothing_else(out: Path, cells: dict[str, Cell]) -> None:
    def logits(name: str) -> list[float]:
        path = out / "predictions" / cells[name].cell_id / "0.parquet"
        return pq.read_table(path)["logit_click"].to_pylist()

    assert cells["below feed ah"].route == "hierarchical" and cells["small feed ah"].route == "direct"
    assert logits("small feed none") == logits("below feed none")
    assert logits("small feed ah") != logits("below feed ah")


def test_scores_hold_the_domain_teacher_and_a_ratio_of_the_route(out: Path) -> None:
    results = json.loads((out / "results.json").read_text())
    scored = {row["vertical"] for row in results["rows"] if row["model"] == "apps"}
    assert scored == {"feed", "reels"}
    routes = {(row["model"], row["route"]) for row in results["transfer"]}
    assert routes == {("small", "direct"), ("below", "hierarchical")}


def test_second_run_trains_nothing_again(out: Path) -> None:
    def times() -> dict[Path, int]:
        names = ("teacher", "domain_teachers", "teacher_log", "checkpoints", "predictions")
        return {path: path.stat().st_mtime_ns for name in names for path in (out / name).rglob("*.*")}

    before = times()
    assert main(["run", str(out.parent / "tiny.yaml")]) == 0
    assert times() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"domain_teachers": []}, "verticals: got 'feed', a surface of no domain teacher"),
        (
            {"domain_teachers": [DOMAIN, DOMAIN | {"name": "others", "verticals": ["reels"]}]},
            "verticals: got 'reels', a surface of apps and others",
        ),
        ({"domain_teachers": [DOMAIN | {"name": "gem"}]}, "domain_teachers[0].name: got 'gem'"),
        ({"domain_teachers": [DOMAIN | {"verticals": []}]}, "domain_teachers[0].verticals: got nothing"),
        (
            {"domain_teachers": [DOMAIN | {"verticals": ["fed"]}]},
            "domain_teachers[0].verticals[0]: got 'fed'",
        ),
        ({"domain_teachers": [DOMAIN | {"channel": "ha"}]}, "domain_teachers[0].channel: got 'ha'"),
        (
            {"schedule": {"kind": "frozen", "teacher_days": 2, "tune_days": [4, 5], "test_days": []}},
            "schedule.kind: got 'frozen' beside domain teachers",
        ),
        ({"teacher": None}, "domain_teachers[0]: got a domain teacher without a teacher"),
    ],
)
def test_what_makes_no_sense_is_refused(
    data: Path, tmp_path: Path, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_experiment(tmp_path / "a", data, tmp_path / "cache", **(CHANGES | changes))
    assert main(["validate", str(config)]) == 2
    said = capsys.readouterr()
    assert message in said.err + said.out
