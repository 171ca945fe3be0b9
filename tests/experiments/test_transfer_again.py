"""What of a transfer study is done again when its settings change, in which pool, and with the test days."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from sklearn.metrics import roc_auc_score

from experiments.pipeline import environment
from experiments.pipeline.pool import Job
from experiments.studies.transfer import run as study_run
from tests.experiments import recompute
from tests.experiments.transfer_study import (
    SMALL,
    SMALL_STUDY,
    TABLES,
    VERTICALS,
    Finished,
    owned,
    reports,
    run,
    stamps,
    tables_of,
    write_base,
    write_study,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A study of one student and one channel set, recorded by W&B."""
    folder = tmp_path_factory.mktemp("small")
    data, experiment = write_base(folder, **SMALL)
    return Finished(folder / "study", data, run(write_study(folder / "study", experiment, **SMALL_STUDY)))


def copied(small: Finished, folder: Path) -> Path:
    """The study in another place, with what it has done; its file."""
    shutil.copytree(small.folder / "runs", folder / "runs", symlinks=True)
    return write_study(folder, small.folder.parent / "base" / "tiny.yaml", **SMALL_STUDY)


def test_a_run_of_the_tracker_for_every_cell_that_is_trained(small: Finished) -> None:
    for name in ("core", "fresh"):
        folder = small.slice(name)
        recorded = json.loads((folder / "wandb_runs.json").read_text())
        assert set(recorded) == owned(folder) and all(of["scores"] for of in recorded.values())
        assert len(list((folder / "wandb").glob("offline-run-*"))) == len(recorded)
    assert len(owned(small.slice("core"))) == 5 and len(owned(small.slice("fresh"))) == 2


@pytest.mark.parametrize(
    "change", ["channels.ah.ah.weight=3.0", "students.thin.channel_optimizers={ah: {batch_size: 25}}"]
)
def test_a_changed_channel_set_trains_itself_alone(small: Finished, tmp_path: Path, change: str) -> None:
    study = copied(small, tmp_path)
    before = reports(tmp_path)
    run(study, "--set", change)
    after = reports(tmp_path)
    changed = {path.parents[1].name for path in after if before.get(path) != after[path]}
    cells = [small.cell(name, "thin", v, "ah") for name in ("core", "fresh") for v in VERTICALS]
    assert changed == {cell.cell_id for cell in cells}


def test_the_same_settings_said_otherwise_train_nothing(small: Finished, tmp_path: Path) -> None:
    study = copied(small, tmp_path)
    before = reports(tmp_path)
    optimizer = "{batch_size: 50, learning_rate: 0.01}"
    run(study, "--set", f"students.thin.channel_optimizers={{none: {optimizer}, ah: {optimizer}}}")
    assert reports(tmp_path) == before


def test_a_channel_set_that_comes_later_trains_itself_alone(small: Finished, tmp_path: Path) -> None:
    study = copied(small, tmp_path)
    before = reports(tmp_path)
    run(study, "--set", "students.thin.channels=[ah,all]")
    after = reports(tmp_path)
    assert before.items() <= after.items()
    new = {path.parents[1].name for path in after if path not in before}
    assert new == {small.cell("core", "thin", v, "all").cell_id for v in VERTICALS}


def test_a_slice_that_goes_its_own_way_writes_nothing_into_another(small: Finished, tmp_path: Path) -> None:
    """Its `none` was the core's; with another first day it trains its own, in a folder of its own."""
    copied(small, tmp_path)
    core = stamps(tmp_path / "runs" / "core", ".parquet", ".safetensors")
    fresh = {"channels": ["ah"], "set": {"schedule.lag": 0, "schedule.student_first_day": 2}}
    experiment = small.folder.parent / "base" / "tiny.yaml"
    run(write_study(tmp_path, experiment, **(SMALL_STUDY | {"slices": {"fresh": fresh}})))
    assert stamps(tmp_path / "runs" / "core", ".parquet", ".safetensors") == core
    cells = [small.cell("fresh", "thin", v, channel) for v in VERTICALS for channel in ("none", "ah")]
    assert owned(tmp_path / "runs" / "fresh") == {cell.cell_id for cell in cells}
    assert (tmp_path / "runs" / "fresh" / "teacher").is_symlink(), "the teacher's days are the same"


def test_all_students_share_one_pool_the_longest_first(
    small: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: dict[str, tuple[list[Job], int]] = {}
    whole = study_run.run_jobs

    def seen(jobs: Sequence[Job], title: str, workers: int, progress: Any) -> None:
        pools[title] = (list(jobs), workers)
        whole(jobs, title, 1, progress)

    monkeypatch.setattr(study_run, "run_jobs", seen)
    experiment = small.folder.parent / "base" / "tiny.yaml"
    run(
        write_study(tmp_path, experiment, **SMALL_STUDY), "--set", "workers=3", "--set", "wandb.enabled=false"
    )
    jobs, workers = pools["students"]
    assert (len(jobs), workers) == (6, 3)
    folders = {job.arguments[0].folder.name for job in jobs}
    assert folders == {"core", "fresh"}
    examples = [job.examples for job in jobs]
    assert examples == sorted(examples, reverse=True) and examples[0] > examples[-1]
    assert tables_of(tmp_path) == tables_of(small.folder)


def test_final_reads_the_test_days_and_leaves_a_trace(
    small: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "TEST_READS", tmp_path / "reads.csv")
    study = copied(small, tmp_path)
    printed = run(study, "--final", "why not", "--set", "wandb.enabled=false")
    with (tmp_path / "reads.csv").open() as file:
        (read,) = csv.DictReader(file)
    assert read["reason"] == "why not" and len(read["config_hash"]) == 64
    again = Finished(tmp_path, small.data, printed)
    for what in ("", "ratio", "bars"):
        assert {row["split"] for row in again.table(what)} == {"tune", "test"}
    assert "final scores (test days)" in printed
    cell = again.cell("fresh", "thin", "feed", "ah")
    columns = recompute.read([again.predictions("fresh", cell, 0)], "test", "feed")
    row = next(
        row
        for row in again.table()
        if (row["cell_id"], row["split"], row["task"]) == (cell.cell_id, "test", "click")
    )
    assert float(row["auc"]) == pytest.approx(
        roc_auc_score(columns["label_click"], columns["logit_click"]), rel=1e-6
    )
    assert not (small.folder.parent / "reads.csv").exists()


def test_rows_of_days_that_are_not_scored_now_stay(small: Finished, tmp_path: Path) -> None:
    study = copied(small, tmp_path)
    head = (small.folder / TABLES[0]).read_text().splitlines()[0]
    kept = ",".join("test" if name == "split" else "9" for name in head.split(","))
    (tmp_path / TABLES[0]).write_text(f"{head}\n{kept}\n")
    run(study)
    lines = (tmp_path / TABLES[0]).read_text().splitlines()
    assert lines[1] == kept and len(lines) == 2 + len(small.table())


def test_where_settings_come_from_is_told(small: Finished, tmp_path: Path) -> None:
    experiment = small.folder.parent / "base" / "tiny.yaml"
    content: dict[str, Any] = {
        "experiment": str(experiment),
        "output": "unused",
        "table": "unused.csv",
        "seeds": [100],
    }
    content["trials"] = {"none": [{}, {}], "ah": [{}, {}]}
    (tmp_path / "tuning.yaml").write_text(yaml.safe_dump(content))
    copied(small, tmp_path)
    study = write_study(tmp_path, experiment, **SMALL_STUDY, tuning="tuning.yaml")
    assert "settings: the best of 2 trials of every channel set (tuning.yaml)" in run(study)
