"""The transfer study through the real command: one training of everything, tables, slices, what a person reads."""

from __future__ import annotations

import itertools
import json
from xml.etree import ElementTree

import numpy as np
import pytest

from distill.cells import Cell, read_cells
from distill.results import ROW_COLUMNS, TRANSFER_COLUMNS
from experiments.__main__ import main
from experiments.recorded import read_run
from experiments.studies.transfer.bars import BAR_COLUMNS
from tests.experiments import recompute
from tests.experiments.tiny_experiment import TASKS
from tests.experiments.transfer_study import (
    CONDITIONS,
    CORE,
    SEEDS,
    SLICES,
    TABLES,
    VERTICALS,
    Finished,
    owned,
    run,
    stamps,
    write_base,
    write_study,
)

SVG = "{http://www.w3.org/2000/svg}"


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
    assert "the whole brings at least twice what ah brings, which beats single: all - 2 ah" in lines
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
