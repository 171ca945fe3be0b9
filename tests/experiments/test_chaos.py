"""Real processes killed or hindered, then let go on: what they leave is, bit for bit, what undisturbed ones leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.benchmarks.chaos import EXPERIMENT, Chaos, Component
from experiments.benchmarks.chaos_faults import LOG, flipped_snapshot
from experiments.benchmarks.victims import alive, content, family, put_back, rows
from tests.experiments.killed import run_until

STUDENT_BATCH = EXPERIMENT["students"][0]["optimizer"]["batch_size"]


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Chaos:
    return Chaos(tmp_path_factory.mktemp("chaos"), schedule={"tune_days": [3, 4], "test_days": []})


@pytest.fixture(scope="module")
def components(chaos: Chaos) -> dict[str, Component]:
    """A teacher with dropout and an autoencoder, its log, students: plain, with soft labels, with the adapter too."""
    return chaos.components(("teacher", "log", "students"))


def killed_after(chaos: Chaos, component: Component, *steps: int) -> None:
    """Kill a command after some steps, again when it goes on, and compare what it leaves in the end."""
    put_back(component.before, component.folder)
    for step in steps:
        assert run_until(step, component.arguments, chaos.log) == -signal.SIGKILL
        assert list(component.folder.rglob("unfinished/step-*")), "nothing was saved"
    chaos.in_peace(component.arguments)
    assert content(component.folder) == content(component.after)
    assert not list(component.folder.rglob("unfinished")), "checkpoints stay behind"


def test_teacher_with_dropout_and_autoencoder(chaos: Chaos, components: dict[str, Component]) -> None:
    killed_after(chaos, components["teacher"], 14, 9)


def test_students_with_and_without_adapter(chaos: Chaos, components: dict[str, Component]) -> None:
    students = components["students"]
    reports = [json.loads(path.read_text()) for path in students.after.glob("checkpoints/*/0/report.json")]
    (steps,) = {steps_of(report) for report in reports if report["cell_id"] in student_cells(students)}
    # The plain one after its sixth step, saved after its fourth, from which it goes on; so the next, and the next.
    killed_after(chaos, students, 6, steps - 4 + 6, steps - 4 + 6)


def student_cells(students: Component) -> set[str]:
    """Ids of the three students' cells: those that have no predictions before."""

    def cells(folder: Path) -> set[str]:
        return {path.parent.name for path in folder.glob("predictions/*/0.parquet")}

    found = cells(students.after) - cells(students.before)
    assert len(found) == 3
    return found


def steps_of(report: dict[str, Any]) -> int:
    seen = [0, *(day["examples_seen"] for day in report["days"])]
    return sum(ceil((now - before) / STUDENT_BATCH) for before, now in pairwise(seen))


def test_log_at_a_random_moment_and_a_part_cut_short(chaos: Chaos, components: dict[str, Component]) -> None:
    row = chaos.killed(components["log"], 0.6)
    assert row.identical and (row.rows_lost, row.rows_doubled) == (0, 0)
    put_back(components["log"].after, components["log"].folder)
    part = components["log"].folder / LOG
    part.write_bytes(part.read_bytes()[:-100])
    chaos.in_peace(components["log"].arguments)
    assert content(components["log"].folder) == content(components["log"].after)


def test_flipped_byte_of_a_snapshot_is_named_and_made_good(
    chaos: Chaos, components: dict[str, Component]
) -> None:
    row = flipped_snapshot(chaos, components["log"])
    assert row.identical and (row.rows_lost, row.rows_doubled) == (0, 0)


def test_rows_are_counted(components: dict[str, Component], tmp_path: Path) -> None:
    whole, less = components["log"].after, tmp_path / "less"
    assert rows(whole, whole) == (0, 0)
    put_back(whole, less)
    ids = pq.read_table(less / LOG, columns=["example_id"])
    (less / LOG).unlink()
    assert rows(less, whole) == (len(ids), 0)
    pq.write_table(pa.concat_tables([ids, ids.slice(0, 3)]), less / LOG)
    assert rows(less, whole) == (0, 3)


def test_family_is_a_process_and_all_below_it() -> None:
    tree = ["sh", "-c", "(sleep 60 & echo; wait) & wait"]
    with subprocess.Popen(tree, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None and first.stdout.readline() == b"\n"
        members = family(first.pid)
        assert members[0] == first.pid and len(members) == 3
        assert all(map(alive, members))
        for member in members:
            os.kill(member, signal.SIGKILL)
    while any(map(alive, members)):
        time.sleep(0.01)
    assert family(first.pid) == [first.pid]
