"""Artifacts of offline W&B runs lead from the data over the teacher's log and the student to its export."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from distill.cells import Cell
from tests.experiments.offline_runs import (
    Records,
    artifacts,
    cell_of,
    header,
    inspect,
    records_of,
    tracker_of,
)
from tests.experiments.synthetic_run import write_synthetic_run


def test_lineage_leads_from_the_data_over_the_log_to_the_student(tmp_path: Path) -> None:
    folder = write_synthetic_run(
        tmp_path / "run", noise={"teacher": 0.2, "none": 0.75, "ah": 0.5}, seeds=(0,)
    )
    teacher, student = cell_of(folder, role="teacher"), cell_of(folder, vertical="feed", channel="ah")
    for cell in (teacher, student):
        (folder / "checkpoints" / cell.cell_id / "0" / "model.safetensors").write_bytes(b"parameters")
    day = folder / "teacher_log" / "0" / "lag-1" / "day-0003.json"
    day.parent.mkdir(parents=True)
    day.write_text(json.dumps({"checksum": "abc"}))
    for cell in (teacher, student):
        tracker_of(folder).finish(cell)
    data, model, log = "data-simulator", f"model-gem-all-none-{teacher.cell_id}", f"log-gem-{teacher.cell_id}"
    mine = f"model-deepfm-feed-ah-{student.cell_id}"
    found = {
        cell: [
            (a["name"], a["type"], a.get("use_after_commit", False))
            for a in described(records_of(folder, cell))
        ]
        for cell in (teacher, student)
    }
    assert found[teacher] == [(data, "dataset", True), (model, "model", False), (log, "teacher_log", False)]
    assert found[student] == [(data, "dataset", True), (log, "teacher_log", True), (mine, "model", False)]
    written = {path.stem: json.loads(path.read_text()) for path in (folder / "wandb" / "artifacts").iterdir()}
    assert {name: content["made_from"] for name, content in written.items()} == {
        data: [],
        model: [data],
        log: [model],
        mine: [data, log],
    }
    assert written[mine]["sha256"] == {"0": hashlib.sha256(b"parameters").hexdigest()}
    assert written[log]["sha256"] == {"0/lag-1": {"day-0003": "abc"}}


def described(records: Records) -> list[dict[str, Any]]:
    """Artifacts of a run, apart from those that hold its tables."""
    return [a for a in artifacts(records) if a["type"] != "run_table"]


@pytest.fixture
def export(tmp_path: Path) -> tuple[Path, Cell, Path]:
    """A run with a student's parameters, the student, and the folder of its export."""
    run = write_synthetic_run(tmp_path / "run", seeds=(0,))
    student, folder = cell_of(run, vertical="feed", channel="ah"), tmp_path / "export"
    (run / "checkpoints" / student.cell_id / "0" / "model.safetensors").write_bytes(b"parameters")
    folder.mkdir()
    (folder / "signature.json").write_text(json.dumps({"precision": "int8"}))
    (folder / "manifest.json").write_text(json.dumps({"sha256": {"program.pt2": "abc"}}))
    return run, student, folder


def test_export_is_a_run_that_leads_on_from_the_student(export: tuple[Path, Cell, Path]) -> None:
    run, student, folder = export
    tracker_of(run).exported(student, 0, folder)
    (recorded,) = (run / "wandb").glob("offline-run-*")
    records = inspect(recorded)
    assert (header(records)["job_type"], header(records)["run_group"]) == ("export", "synthetic")
    assert set(header(records)["tags"]) == {"export:deepfm", "feed", "ah", "deepfm"}
    model = f"model-deepfm-feed-ah-{student.cell_id}"
    made = f"export-deepfm-feed-ah-0-int8-{student.cell_id}"
    found = [(a["name"], a["type"], a.get("use_after_commit", False)) for a in described(records)]
    assert found == [(model, "model", True), (made, "export", False)]
    written = json.loads((run / "wandb" / "artifacts" / f"{made}.json").read_text())
    assert written["made_from"] == [model]
    assert (written["seed"], written["precision"]) == (0, "int8")
    assert written["sha256"] == {"program.pt2": "abc"}


def test_export_that_is_made_again_goes_on_with_its_run(export: tuple[Path, Cell, Path]) -> None:
    run, student, folder = export
    for _ in range(2):
        tracker_of(run).exported(student, 0, folder)
    ids = [header(inspect(path))["run_id"] for path in (run / "wandb").glob("offline-run-*")]
    assert len(ids) == 2 and len(set(ids)) == 1
