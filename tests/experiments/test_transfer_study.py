"""The transfer study through the real command: one training of everything, tables, slices, test days, refusals."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from distill.cells import Cell, read_cells
from distill.errors import ConfigErrors
from distill.results import ROW_COLUMNS, TRANSFER_COLUMNS
from experiments.__main__ import main
from experiments.pipeline import environment
from experiments.pipeline.pool import Job
from experiments.recorded import read_run
from experiments.studies.transfer import run as study_run
from experiments.studies.transfer.bars import BAR_COLUMNS
from experiments.studies.transfer.file import Transfer, read_transfer
from experiments.studies.transfer.picture import transfer_picture
from tests.experiments import recompute
from tests.experiments.tiny_experiment import TASKS
from tests.experiments.transfer_study import (
    SEEDS,
    SMALL,
    SMALL_STUDY,
    VERTICALS,
    write_base,
    write_study,
)

SVG = "{http://www.w3.org/2000/svg}"
CORE = {"thin": ("none", "single", "ah", "ah_adapter", "all"), "rich": ("none", "ah", "all")}
SLICES: dict[str, dict[str, tuple[str, ...]]] = {
    "core": CORE,
    "fresh": {"thin": ("none", "ah", "ah_adapter"), "rich": ("none", "ah")},
    "below": {"thin": ("none", "all"), "rich": ("none", "all")},
    "frozen": {"thin": ("none", "ah"), "rich": ("none", "ah")},
}
"""Slice to student to channel sets; what `write_study` asks for."""

CONDITIONS = {
    "core": ("progressive", "direct", 1),
    "fresh": ("progressive", "direct", 0),
    "below": ("progressive", "hierarchical", 1),
    "frozen": ("frozen", "direct", 1),
}


@dataclass(frozen=True)
class Finished:
    """A finished study.

    Attributes:
        folder: holds study.yaml, tables and runs.
        data: folder of the data as it was written.
        printed: what the command wrote to standard output.
    """

    folder: Path
    data: Path
    printed: str

    def table(self, what: str = "") -> list[dict[str, str]]:
        name = f"transfer_{what}_tiny.csv" if what else "transfer_tiny.csv"
        with (self.folder / name).open() as file:
            return list(csv.DictReader(file))

    def slice(self, name: str) -> Path:
        return self.folder / "runs" / name

    def cell(self, slice_name: str, model: str, vertical: str, channel: str = "none") -> Cell:
        inputs = "thin" if model == "thin" else "rich"
        schedule, route, lag = CONDITIONS[slice_name]
        return Cell("tiny", model, "student", vertical, schedule, inputs, route, lag, channel)

    def teacher(self, schedule: str = "progressive") -> Cell:
        return Cell("tiny", "gem", "teacher", "all", schedule, "rich", "direct", 0, "none")

    def predictions(self, slice_name: str, cell: Cell, seed: int) -> Path:
        return self.slice(slice_name) / "predictions" / cell.cell_id / f"{seed}.parquet"

    def report(self, slice_name: str, cell: Cell, seed: int) -> dict[str, Any]:
        path = self.slice(slice_name) / "checkpoints" / cell.cell_id / str(seed) / "report.json"
        return json.loads(path.read_text())

    @cached_property
    def rows(self) -> dict[tuple[str, ...], dict[str, str]]:
        """(cell_id, vertical, task, seed) to the row of the tune days."""
        keys = ("cell_id", "vertical", "task", "seed")
        return {tuple(row[key] for key in keys): row for row in self.table() if row["split"] == "tune"}

    def losses(self, slice_name: str, cells: Sequence[Cell], vertical: str, task: str) -> dict[str, float]:
        """L by scikit-learn, mean over seeds."""
        p = recompute.base_rate(self.data, range(1, 6), vertical, task)
        paths = [[self.predictions(slice_name, cell, seed) for cell in cells] for seed in SEEDS]
        found = [recompute.losses(recompute.read(of, "tune", vertical), task, p) for of in paths]
        return {kind: float(np.mean([of[kind] for of in found])) for kind in found[0]}


def run(study: Path, *arguments: str) -> str:
    """The command; what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["study", "transfer", str(study), *arguments]) == 0
    return printed.getvalue()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The study, run."""
    folder = tmp_path_factory.mktemp("transfer")
    data, experiment = write_base(folder)
    study = write_study(folder / "study", experiment)
    return Finished(folder / "study", data, run(study))


def all_cells(done: Finished) -> list[tuple[str, Cell]]:
    """Every student's cell with its slice."""
    return [
        (name, done.cell(name, model, vertical, channel))
        for name, students in SLICES.items()
        for model, channels in students.items()
        for channel, vertical in itertools.product(channels, VERTICALS)
    ]


def test_a_table_row_for_everything_and_nothing_else(done: Finished) -> None:
    students = [(c.cell_id, c.vertical) for _, c in all_cells(done)]
    pooled = [(c.pooled.cell_id, "pooled") for _, c in all_cells(done)]
    teachers = [
        (done.teacher(kind).cell_id, vertical)
        for kind in ("progressive", "frozen")
        for vertical in (*VERTICALS, "pooled")
    ]
    domain = Cell("tiny", "apps", "domain_teacher", "feed+reels", "progressive", "thin", "direct", 0, "ah")
    places = {*students, *pooled, *teachers, *((domain.cell_id, vertical) for vertical in VERTICALS)}
    expected = {(*place, task, str(seed)) for place in places for task in TASKS for seed in SEEDS}
    assert set(done.rows) == expected and len(done.table()) == len(expected)
    assert tuple(done.table()[0]) == (*ROW_COLUMNS, "cpu_seconds")


@pytest.mark.parametrize("vertical", [*VERTICALS, "pooled"])
def test_rows_are_the_protocols_scores(done: Finished, vertical: str) -> None:
    for name, channel in (("core", "single"), ("below", "all"), ("frozen", "none")):
        cells = [done.cell(name, "thin", v, channel) for v in VERTICALS if vertical in (v, "pooled")]
        cell_id = cells[0].pooled.cell_id if vertical == "pooled" else cells[0].cell_id
        for task, seed in itertools.product(TASKS, SEEDS):
            p = recompute.base_rate(done.data, range(1, 6), vertical, task)
            paths = [done.predictions(name, cell, seed) for cell in cells]
            expected = recompute.scores(recompute.read(paths, "tune", vertical), task, p)
            row = done.rows[cell_id, vertical, task, str(seed)]
            assert row["gauc"] == row["oracle_ne"] == "" and expected.pop("gauc") is None
            assert {key: float(row[key]) for key in expected} == pytest.approx(expected, rel=2e-6)
            seconds = sum(done.report(name, cell, seed)["cpu_seconds"] for cell in cells)
            assert float(row["cpu_seconds"]) == pytest.approx(seconds, rel=1e-6)


@pytest.mark.parametrize("name", SLICES)
def test_gains_are_against_none_and_the_teacher_of_lag_zero(done: Finished, name: str) -> None:
    schedule, route, lag = CONDITIONS[name]
    channel = SLICES[name]["rich"][-1]
    same = {"schedule": schedule, "route": route, "lag": str(lag), "channel": channel, "model": "rich"}
    rows = [row for row in done.table("ratio") if all(row[key] == value for key, value in same.items())]
    found = {(row["vertical"], row["task"], row["measure"]): row for row in rows}
    for task in TASKS:
        totals = {kind: np.zeros(2) for kind in ("ne", "auc", "ne_intercept")}
        for vertical in VERTICALS:
            none, mine = (
                done.losses(name, [done.cell(name, "rich", vertical, slug)], vertical, task)
                for slug in ("none", channel)
            )
            # Through the links of the slice: the teacher's own predictions, whichever slice trained it.
            fm = done.losses(name, [done.teacher(schedule)], vertical, task)
            for kind, total in totals.items():
                deltas = np.array([none[kind] - mine[kind], none[kind] - fm[kind]])
                row = found[vertical, task, kind]
                assert [float(row[key]) for key in ("delta_vm", "delta_fm")] == pytest.approx(
                    deltas, abs=3e-6
                )
                total += deltas
        for kind, total in totals.items():
            row = found["macro", task, kind]
            assert [float(row[key]) for key in ("delta_vm", "delta_fm")] == pytest.approx(total, abs=6e-6)
            assert row["seeds"] == "2"
    assert tuple(rows[0]) == TRANSFER_COLUMNS


def owned(folder: Path) -> set[str]:
    """Ids of the cells whose trainings lie in a slice's folder itself."""
    return {path.name for path in (folder / "checkpoints").iterdir() if not path.is_symlink()}


def test_none_is_trained_once_for_a_schedule(done: Finished) -> None:
    for name in SLICES:
        cells = [cell for of, cell in all_cells(done) if of == name]
        none = {cell.cell_id for cell in cells if cell.channel == "none"}
        assert none <= {cell.cell_id for cell in read_cells(done.slice(name) / "cells.csv")}
        assert none <= owned(done.slice(name)) or name in ("fresh", "below")
        assert not none & owned(done.slice(name)) or name in ("core", "frozen")
    for name, vertical, seed in itertools.product(("fresh", "below"), VERTICALS, SEEDS):
        relabelled, first = done.cell(name, "thin", vertical), done.cell("core", "thin", vertical)
        assert relabelled.cell_id != first.cell_id
        assert done.predictions(name, relabelled, seed).samefile(done.predictions("core", first, seed))


def test_other_channels_are_trained_in_every_slice(done: Finished) -> None:
    for name, cell in all_cells(done):
        if cell.channel != "none":
            assert cell.cell_id in owned(done.slice(name))


def test_slices_of_one_schedule_share_their_teacher(done: Finished) -> None:
    for name in ("fresh", "below"):
        for what in ("teacher", "teacher_log"):
            assert (done.slice(name) / what).is_symlink()
            assert (done.slice(name) / what).samefile(done.slice("core") / what)
        assert done.teacher().cell_id not in owned(done.slice(name))
    days = {name: done.report(name, done.teacher(CONDITIONS[name][0]), 0)["days"] for name in SLICES}
    assert days["core"] == days["fresh"] == days["below"]
    assert [day["day"] for day in days["core"]] == [1, 2, 3, 4]
    assert [day["day"] for day in days["frozen"]] == [1, 2], "a frozen teacher stops"


def test_logs_are_written_for_every_lag(done: Finished) -> None:
    for seed, lag in itertools.product(SEEDS, (0, 1)):
        manifest = done.slice("core") / "teacher_log" / str(seed) / f"lag-{lag}" / "day-0004.json"
        assert json.loads(manifest.read_text())["trained_through"] == 3 - lag
    frozen = json.loads((done.slice("frozen") / "teacher_log/0/frozen/day-0004.json").read_text())
    assert frozen["trained_through"] == 2
    domain = done.slice("below") / "domain_teachers/apps/teacher_log/0/lag-1/day-0004.json"
    assert json.loads(domain.read_text())["teacher"] == "apps"
    assert not (done.slice("core") / "domain_teachers").exists(), "nobody learns from them there"


def test_every_slice_is_a_run_folder(done: Finished) -> None:
    for name, students in SLICES.items():
        recorded = read_run(done.slice(name))
        assert recorded.complete and recorded.splits == ("tune",)
        assert {(row["model"], row["channel"]) for row in recorded.transfer} == {
            (model, channel)
            for model, channels in students.items()
            for channel in channels
            if channel != "none"
        }
        assert {row["cell_id"] for row in recorded.rows} >= {cell.cell_id for cell in recorded.cells}
    assert main(["report", str(done.slice("fresh"))]) == 0


def test_bars_are_told_where_their_channels_are(done: Finished) -> None:
    rows = done.table("bars")
    assert tuple(rows[0]) == BAR_COLUMNS
    assert {row["verdict"] for row in rows} <= {"ok", "MISSED", "undefined"}
    of_bar: dict[str, set[tuple[str, str, str]]] = {}
    for row in rows:
        of_bar.setdefault(row["bar"], set()).add((row["model"], row["route"], row["lag"]))
    assert of_bar["twice"] == {("thin", "direct", "1")}, "rich has no `single`"
    assert of_bar["adapter_harmless"] == {("thin", "direct", "0")}
    assert of_bar["adapter_helps"] == of_bar["adapter_grows"] == {("thin", "direct", "1")}
    assert of_bar["small_verticals"] == {
        *(("thin", "direct", "1"), ("rich", "direct", "1")),
        *(("thin", "hierarchical", "1"), ("rich", "hierarchical", "1")),
    }
    calibrated = [row for row in rows if row["bar"] == "calibration"]
    assert {row["verdict"] for row in calibrated} == {"undefined"}, "far less than 10,000 positives"
    assert len(calibrated) == sum(len(of) for students in SLICES.values() for of in students.values()) * len(
        TASKS
    )


def test_the_rows_of_small_verticals_are_pooled_with_their_own_rate(done: Finished) -> None:
    """Of a single small vertical, so that its pooled rows are that vertical's."""
    same = {"bar": "small_verticals", "model": "thin", "route": "direct", "against": "ah"}
    rows = [row for row in done.table("bars") if all(row[key] == value for key, value in same.items())]
    for row in rows:
        mine, theirs = (
            done.losses("core", [done.cell("core", "thin", "reels", channel)], "reels", row["task"])
            for channel in ("all", "ah")
        )
        assert float(row["value"]) == pytest.approx(theirs[row["measure"]] - mine[row["measure"]], abs=3e-6)
    assert len(rows) == len(TASKS) * 3


def test_a_person_reads_ratios_and_bars(done: Finished) -> None:
    lines = [line.strip() for line in done.printed.splitlines()]
    assert lines[0] == (
        "tiny: development scores (tune days), seeds 0, 1; settings: defaults, chosen by no trial"
    )
    for schedule, route, lag in CONDITIONS.values():
        assert f"thin, click: {schedule}, {route}, lag {lag}" in lines
    assert sum(line.startswith("constant ") for line in lines) == len(SLICES) * 2 * len(TASKS)
    assert "all brings at least twice what ah brings: all - 2 ah" in lines
    judged = [line for line in lines if line.startswith(("ok ", "MISSED ", "undefined "))]
    assert len(judged) == len(done.table("bars"))
    assert lines[-1] == f"Picture: {done.folder / 'transfer_tiny.svg'}"


def test_the_picture_of_the_study_is_readable(done: Finished) -> None:
    root = ElementTree.parse(done.folder / "transfer_tiny.svg").getroot()
    texts = [element.text for element in root.iter(f"{SVG}text")]
    for model, channels in CORE.items():
        assert sum(text is not None and text.startswith(f"{model}: ") for text in texts) == 1
        assert all(texts.count(channel) >= 1 for channel in channels[1:])
    assert texts.count("none") == 0 and all(texts.count(task) == 2 for task in TASKS)


def stamps(folder: Path, *suffixes: str) -> dict[Path, int]:
    found = (path for path in folder.rglob("*") if path.suffix in suffixes)
    return {path: path.stat().st_mtime_ns for path in found}


TABLES = ("transfer_tiny.csv", "transfer_ratio_tiny.csv", "transfer_bars_tiny.csv")


def test_what_is_done_is_not_done_again(done: Finished) -> None:
    before = stamps(done.folder, ".parquet", ".safetensors")
    tables = {name: (done.folder / name).read_text() for name in TABLES}
    assert run(done.folder / "study.yaml") == done.printed
    assert before and stamps(done.folder, ".parquet", ".safetensors") == before
    assert {name: (done.folder / name).read_text() for name in TABLES} == tables


def test_one_lost_training_is_made_up_for(done: Finished) -> None:
    lost = done.predictions("core", done.cell("core", "rich", "reels", "all"), 1)
    before, content = stamps(done.folder, ".parquet"), lost.read_bytes()
    lost.unlink()
    assert run(done.folder / "study.yaml") == done.printed
    changed = {path for path, stamp in before.items() if path.stat().st_mtime_ns != stamp}
    assert changed == {lost} and lost.read_bytes() == content


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


def reports(folder: Path) -> dict[Path, int]:
    """Reports of trainings and when they were written; what is linked is not counted again."""
    found = folder.glob("runs/*/checkpoints/*/*/report.json")
    return {path: path.stat().st_mtime_ns for path in found if not path.parents[1].is_symlink()}


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


def tables_of(folder: Path) -> dict[str, list[dict[str, str]]]:
    """The tables but for times."""
    found = {}
    for name in TABLES:
        with (folder / name).open() as file:
            rows = list(csv.DictReader(file))
        found[name] = [{key: value for key, value in row.items() if key != "cpu_seconds"} for row in rows]
    return found


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


def refused(done: Finished, tmp_path: Path, **changes: Any) -> list[str]:
    """Problems of a file."""
    study = write_study(tmp_path, done.folder.parent / "base" / "tiny.yaml", **changes)
    with pytest.raises(ConfigErrors) as caught:
        read_transfer(study)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slice": {}}, "slice: got an unknown key; allowed: experiment,"),
        ({"slices__core": {"channels": ["ah"]}}, "slices.core: got 'core'; allowed: another name"),
        ({"slices__a b": {"channels": ["ah"]}}, "slices.a b: got 'a b'; allowed: letters, digits"),
        ({"slices__fresh__channels": []}, "slices.fresh.channels: got an empty list; allowed: at least one"),
        ({"slices__fresh__channels": ["ah", "ah"]}, "slices.fresh.channels[1]: got 'ah' a second time"),
        (
            {"slices__fresh__route": "indirect"},
            "slices.fresh.route: got 'indirect'; allowed: direct, hierarchical",
        ),
        (
            {"slices__fresh__set": {"teacher.name": "x"}},
            "got the key teacher.name; allowed: keys of the schedule",
        ),
        (
            {"slices__fresh__set": {"schedule.test_days": [5]}},
            "slices.fresh.set.schedule.test_days: got the key schedule.test_days; allowed: keys of the schedule but",
        ),
        (
            {"table": "transfer.csv"},
            "table: got 'transfer.csv'; allowed: a file named by its data set, such as",
        ),
        (
            {"tuning": "none.yaml"},
            "tuning: got 'none.yaml', which is not there; allowed: a tuning file, or null",
        ),
        ({"small": ["reels", "reels"]}, "small[1]: got 'reels' a second time"),
        ({"seeds": []}, "seeds: got an empty list; allowed: at least one seed"),
        ({"experiment": "none.yaml"}, "experiment: got 'none.yaml', which is not there"),
    ],
)
def test_bad_files_are_refused(done: Finished, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (problem,) = refused(done, tmp_path, **changes)
    assert message in problem


def test_all_mistakes_are_told_at_once(done: Finished, tmp_path: Path) -> None:
    changes = {"seeds": [], "slice": 1, "table": "x.csv", "slices__fresh__channels": [], "tuning": "x"}
    assert len(refused(done, tmp_path, **changes)) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"slices__fresh__channels": ["ah", "adapter"]},
            "slices.fresh.channels[1]: got 'adapter'; allowed: none, single, ah, ah_adapter, all. Did you mean",
        ),
        ({"small": ["stories"]}, "small[0]: got 'stories', which the student 'thin' does not serve"),
        (
            {"slices__fresh__set": {"schedule.lag": 9}},
            "fresh: --set schedule.lag=9: schedule.lag: got 9 with the last tune day 5",
        ),
        (
            {"slices__frozen__route": "hierarchical"},
            "frozen: --set schedule.kind=\"frozen\": schedule.kind: got 'frozen' beside domain teachers",
        ),
        (
            {"set": {"students.thin.option": 1}},
            "core: --set students.thin.option=1: students[0] (thin).option: got an",
        ),
    ],
)
def test_what_does_not_fit_the_experiment_is_refused(
    done: Finished, tmp_path: Path, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path, done.folder.parent / "base" / "tiny.yaml", **changes)
    assert main(["study", "transfer", str(study)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_two_models_under_one_cell_are_refused(
    small: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = {"channels": ["ah"], "set": {"schedule.student_first_day": 2}}
    experiment = small.folder.parent / "base" / "tiny.yaml"
    study = write_study(tmp_path, experiment, **(SMALL_STUDY | {"slices": {"later": later}}))
    assert main(["study", "transfer", str(study)]) == 2
    said = capsys.readouterr().err
    assert "slices.later: " in said and "is another model there than in slices.core" in said


TUNING: dict[str, Any] = {"output": "unused", "table": "unused.csv", "seeds": [100]}


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ({"none": [{}, {}], "thin/ah": [{}, {}]}, None),
        ({"none": [{}]}, "tuning: got no trials of thin/ah; allowed: equally many for every channel set"),
        ({"ah": [{}]}, "tuning: got no trials of thin/none"),
        ({"none": [{}], "ah": [{}, {}]}, "the same number for every channel set"),
    ],
)
def test_settings_come_from_equally_many_trials(
    small: Finished,
    tmp_path: Path,
    trials: dict[str, Any],
    said: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    experiment = small.folder.parent / "base" / "tiny.yaml"
    content = TUNING | {"experiment": str(experiment), "trials": trials}
    (tmp_path / "tuning.yaml").write_text(yaml.safe_dump(content))
    copied(small, tmp_path)
    study = write_study(tmp_path, experiment, **SMALL_STUDY, tuning="tuning.yaml")
    if said is None:
        assert "settings: the best of 2 trials of every channel set (tuning.yaml)" in run(study)
    else:
        assert main(["study", "transfer", str(study)]) == 2
        assert said in capsys.readouterr().err


def test_trials_of_another_experiment_are_refused(
    small: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = small.folder.parent / "base" / "tiny.yaml"
    other = tmp_path / "other.yaml"
    other.write_text(experiment.read_text())
    content = TUNING | {"experiment": str(other), "trials": {"none": [{}], "ah": [{}]}}
    (tmp_path / "tuning.yaml").write_text(yaml.safe_dump(content))
    study = write_study(tmp_path, experiment, **SMALL_STUDY, tuning="tuning.yaml")
    assert main(["study", "transfer", str(study)]) == 2
    assert f"tuning: got trials of {other.resolve()}; allowed: trials of" in capsys.readouterr().err


def drawn(tmp_path: Path, ratios: dict[str, tuple[float, float, float] | None]) -> ElementTree.Element:
    """The picture of made-up ratios, the same for both tasks."""
    rows = [
        {
            **{"model": "thin", "inputs": "thin", "schedule": "progressive", "lag": 1, "route": "direct"},
            **{"vertical": "macro", "measure": "ne", "channel": channel, "task": task, "seeds": 5},
            **dict(zip(("tr", "tr_low", "tr_high"), found or (None, None, None), strict=True)),
        }
        for channel, found in ratios.items()
        for task in TASKS
    ]
    elsewhere = [
        row | change for row in rows for change in ({"lag": 3}, {"measure": "auc"}, {"vertical": "feed"})
    ]
    schedule = SimpleNamespace(kind="progressive", lag=1)
    experiment: Any = SimpleNamespace(config=SimpleNamespace(schedule=schedule, channels=["none", *ratios]))
    transfer_picture(Transfer(data="made_up"), experiment, [*rows, *elsewhere], tmp_path / "p.svg")
    return ElementTree.parse(tmp_path / "p.svg").getroot()


RATIOS: dict[str, tuple[float, float, float] | None] = {
    "single": (0.1, 0.0, 0.2),
    "ah": (0.2, 0.1, 0.3),
    "all": (0.6, 0.5, 0.7),
}


def texts(root: ElementTree.Element) -> list[str | None]:
    return [element.text for element in root.iter(f"{SVG}text")]


def test_the_picture_has_a_mark_for_every_channel_and_task(tmp_path: Path) -> None:
    root = drawn(tmp_path, RATIOS)
    dots = [float(dot.attrib["cx"]) for dot in root.findall(f".//{SVG}circle[@class='dot']")]
    assert len(dots) == len(RATIOS) * len(TASKS)
    single, plain, whole = dots[:3]
    assert plain - single == pytest.approx((whole - plain) / 4, abs=0.05), "one scale for all"
    dashed = [line for line in root.iter(f"{SVG}line") if line.attrib["class"] == "curve"]
    assert len(dashed) == len(TASKS) and texts(root).count("2 × ah") == len(TASKS)
    assert float(dashed[0].attrib["x1"]) == pytest.approx(plain + (whole - plain) / 2, abs=0.05)
    assert {"made_up: how much of the teacher's gain reaches the students (0: nothing, 1: all of it)"} <= set(
        texts(root)
    )
    assert texts(root).count("0.60") == 2 and texts(root).count("all") == 1


def test_a_long_interval_ends_in_an_arrow(tmp_path: Path) -> None:
    root = drawn(tmp_path, RATIOS | {"all": (0.6, -40.0, 80.0)})
    assert len(root.findall(f".//{SVG}path")) == 2 * len(TASKS)
    xs = [float(line.attrib[end]) for line in root.iter(f"{SVG}line") for end in ("x1", "x2")]
    assert all(0 <= x <= 700 for x in xs)


def test_ah_that_brings_nothing_has_no_double(tmp_path: Path) -> None:
    root = drawn(tmp_path, RATIOS | {"ah": (-0.1, -0.2, 0.0)})
    assert "2 × ah" not in texts(root)
    assert "−0.10" in texts(root)


def test_ratios_that_are_undefined_are_said_to_be(tmp_path: Path) -> None:
    root = drawn(tmp_path, dict.fromkeys(RATIOS))
    assert not root.findall(f".//{SVG}circle")
    assert texts(root).count("No ratio: the teacher's own gain") == len(TASKS)


def test_tables_of_a_study_lie_together() -> None:
    study = Transfer(data="a", table="t/transfer_a.csv")
    assert study.beside("ratio") == Path("t/transfer_ratio_a.csv")
