"""The same command on a changed YAML: what is valid is kept, what is new or changed is trained, the rest is moved."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from distill.results import read_results
from experiments.__main__ import main
from tests.experiments.tiny_experiment import EXPERIMENT, write_days, write_experiment

SMALL: dict[str, Any] = EXPERIMENT["students"][0] | {"verticals": ["feed"]}
WIDE: dict[str, Any] = SMALL | {"name": "wide", "channels": ["ah"], "options": {"dim": 4, "mlp": [12]}}
BASE: dict[str, Any] = {
    "seeds": [0],
    "students": [SMALL, WIDE],
    "channels": {"ah": {"ah": {}}},
    "schedule": {"tune_days": [4], "test_days": []},
    "floor": False,
}
SET_ASIDE = "set_aside"
Files = Mapping[str, tuple[int, int]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_days(tmp_path_factory.mktemp("growing") / "data", days=4, rows=200)


@pytest.fixture(scope="module")
def base(data: Path) -> Path:
    """A finished run."""
    config = write_experiment(data.parent / "base", data, data.parent / "cache", **BASE)
    assert main(["run", str(config)]) == 0
    return config.parent / "out"


class Grown:
    """A copy of the finished run, to be run again with changes.

    Args:
        base: the finished run.
        data: its data.
        folder: gets the copy.
    """

    def __init__(self, base: Path, data: Path, folder: Path):
        self._data, self._folder, self._runs = data, folder, 0
        self.out = folder / "out"
        shutil.copytree(base, self.out)

    def run(self, *options: str, **changes: Any) -> int:
        """`distill run` of the experiment with changes; the exit code."""
        self._runs += 1
        settings = {**BASE, "output": str(self.out), **changes}
        config = write_experiment(
            self._folder / str(self._runs), self._data, self._data.parent / "cache", **settings
        )
        return main(["run", str(config), *options])

    @property
    def files(self) -> Files:
        """What trainings have left: name to when it was written, and what was."""
        folders = ("checkpoints", "predictions", "teacher", "teacher_log", SET_ASIDE)
        found = [path for name in folders for path in (self.out / name).rglob("*") if path.is_file()]
        return {
            str(path.relative_to(self.out)): (path.stat().st_mtime_ns, hash(path.read_bytes()))
            for path in found
        }

    @property
    def cells(self) -> dict[tuple[str, str], str]:
        """(model, channel) to cell_id, of cells.csv."""
        with (self.out / "cells.csv").open(newline="") as file:
            return {(row["model"], row["channel"]): row["cell_id"] for row in csv.DictReader(file)}

    @property
    def scored(self) -> set[tuple[str, str]]:
        """(model, channel) of results.json."""
        scored = {row["cell_id"] for row in read_results(self.out / "results.json")["rows"]}
        return {name for name, cell_id in self.cells.items() if cell_id in scored}


@pytest.fixture
def grown(base: Path, data: Path, tmp_path: Path) -> Grown:
    return Grown(base, data, tmp_path)


HAD = {("gem", "none"), ("small", "none"), ("small", "ah"), ("wide", "none"), ("wide", "ah")}


def test_what_is_added_is_trained_and_the_rest_is_kept(
    grown: Grown, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A student and a channel set, while the data have moved."""
    before = grown.files
    shutil.copytree(data, tmp_path / "moved")
    students = [SMALL, WIDE, WIDE | {"name": "third", "channels": ["single"]}]
    options = ("--set", f"data.root={tmp_path / 'moved'}", "--resume")
    assert grown.run(*options, students=students, channels={"ah": {"ah": {}}, "single": {"single": {}}}) == 0
    assert "kept 5, to be trained 3 (small single, third none, third single)\n" in capsys.readouterr().err
    assert before.items() <= grown.files.items()
    assert grown.scored == HAD | {("small", "single"), ("third", "none"), ("third", "single")}


def test_another_optimiser_trains_one_student_anew_and_the_earlier_one_comes_back_with_its_settings(
    grown: Grown,
) -> None:
    before, own = grown.files, [grown.cells["wide", channel] for channel in ("none", "ah")]
    assert grown.run(students=[SMALL, WIDE | {"optimizer": {"batch_size": 40}}]) == 0
    between, others = grown.files, {name for name in before if not any(cell in name for cell in own)}
    assert all((before[name] == between[name]) == (name in others) for name in before)
    assert grown.scored == HAD
    assert grown.run() == 0
    after = grown.files
    assert before.items() <= after.items()
    trained = [what for name, what in between.items() if SET_ASIDE not in name]
    assert set(trained) <= set(after.values()), "the other one lies aside now"


def test_a_student_that_is_gone_is_no_longer_scored_and_lies_aside(
    grown: Grown, capsys: pytest.CaptureFixture[str]
) -> None:
    before, own = grown.files, [grown.cells["wide", channel] for channel in ("none", "ah")]
    assert grown.run(students=[SMALL]) == 0
    assert "kept 3, to be trained 0, moved to set_aside 2 (wide none, wide ah)\n" in capsys.readouterr().err
    assert grown.scored == grown.cells.keys() == HAD - {("wide", "none"), ("wide", "ah")}
    gone = {name for name in before if any(cell in name for cell in own)}
    assert {name.partition("/")[2].partition("/")[2] for name in grown.files if SET_ASIDE in name} == gone
    assert not gone & grown.files.keys()


def test_a_seed_is_added_and_taken_away(grown: Grown) -> None:
    before = grown.files
    assert grown.run(seeds=[0, 1]) == 0
    assert before.items() <= grown.files.items()
    assert seeds(grown) == {0, 1}
    assert grown.run(seeds=[1]) == 0
    assert seeds(grown) == {1}


def seeds(grown: Grown) -> set[int]:
    return {row["seed"] for row in read_results(grown.out / "results.json")["rows"]}


@pytest.mark.parametrize(
    "changes,named",
    [
        (
            {"teacher": EXPERIMENT["teacher"] | {"optimizer": {"batch_size": 7, "learning_rate": 0.01}}},
            "teacher.optimizer.batch_size",
        ),
        ({"schedule": {"tune_days": [3, 4], "test_days": []}}, "schedule.tune_days"),
        ({"name": "other"}, "name"),
    ],
)
def test_another_teacher_is_refused_before_anything_is_touched(
    grown: Grown, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], named: str
) -> None:
    before, config = grown.files, (grown.out / "config.yaml").read_bytes()
    assert grown.run(**changes) == 2
    said = capsys.readouterr().err
    assert (
        f"output: {grown.out} holds a run with other settings: {named}. Its teacher and all students" in said
    )
    assert (grown.files, (grown.out / "config.yaml").read_bytes()) == (before, config)


def test_other_data_are_refused_before_anything_is_touched(
    grown: Grown, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A student that is gone too is not set aside; nor is the refusal how the run that is there ended."""
    before, cache = everything(grown.out), tmp_path / "cache"
    other = write_days(tmp_path / "other", days=4, rows=210)
    options = ("--set", f"data.root={other}", "--set", f"data.cache={cache}")
    assert grown.run(*options, students=[SMALL]) == 2
    assert "data: got a data set with fingerprint" in capsys.readouterr().err
    assert everything(grown.out) == before
    assert not cache.exists(), "the data are not prepared for nothing"


def everything(out: Path) -> dict[Path, bytes]:
    """All files of a run folder, without who has worked in it."""
    return {
        path: path.read_bytes() for path in out.rglob("*") if path.is_file() and ".locks" not in path.parts
    }


def test_a_run_of_an_earlier_version_is_taken_over(grown: Grown) -> None:
    """Its reports know the hash of all settings alone."""
    for path in grown.out.glob("checkpoints/*/*/report.json"):
        report = json.loads(path.read_text())
        del report["settings_hash"]
        path.write_text(json.dumps(report))
    before = {name: what for name, what in grown.files.items() if not name.endswith("report.json")}
    assert grown.run(students=[SMALL, WIDE | {"channels": ["none"]}]) == 0
    kept = {name for name in before if grown.cells["small", "ah"] in name or name.startswith("teacher")}
    assert {name: before[name] for name in kept} == {name: grown.files[name] for name in kept}


def test_a_bank_takes_in_new_members_only(grown: Grown) -> None:
    """Those that were trained beside each other are trained again together, so that they end with the same numbers."""
    before, students = grown.files, [SMALL, WIDE, SMALL | {"name": "third"}]
    assert grown.run(bank=8, students=students) == 0
    assert before.items() <= grown.files.items()
    after, banked = grown.files, (grown.cells["third", "none"], grown.cells["third", "ah"])
    (grown.out / "checkpoints" / banked[0] / "0" / "report.json").unlink()
    assert grown.run(bank=8, students=students) == 0
    written = {name for name, what in grown.files.items() if after[name][0] != what[0]}
    assert {name.split("/")[1] for name in written} == set(banked)
    same = {name for name in written if not name.endswith("report.json")}
    assert {name: after[name][1] for name in same} == {name: grown.files[name][1] for name in same}
