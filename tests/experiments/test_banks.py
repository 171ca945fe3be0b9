"""Students that a run trains as one: who stands beside whom, and that each ends where it ends alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

import experiments.catalog  # noqa: F401  fills the registries
from distill.load_config import load_config
from distill.progress import NoProgress
from experiments.__main__ import main
from experiments.pipeline.banks import Task, groups, train_bank
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.run import open_experiment
from experiments.pipeline.work import training_jobs
from tests.experiments.tiny_experiment import EXPERIMENT, write_days, write_experiment

COMMON: dict[str, Any] = {"seeds": [0, 1], "floor": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_days(tmp_path_factory.mktemp("made") / "days", rows=300)


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The same run with every student by itself, and with banks."""
    folders = {}
    for bank in (1, 16):
        folder = tmp_path_factory.mktemp("runs") / str(bank)
        config = write_experiment(folder, data, data.parent / "cache", bank=bank, **COMMON)
        assert main(["run", str(config)]) == 0
        folders[bank] = folder / "out"
    return folders


def reports(run: Path) -> dict[str, dict[str, Any]]:
    return {
        str(path.relative_to(run)): json.loads(path.read_text())
        for path in run.rglob("checkpoints/*/*/report.json")
    }


def test_predictions_are_those_of_students_trained_alone(runs: dict[int, Path]) -> None:
    alone = sorted(path.relative_to(runs[1]) for path in runs[1].rglob("predictions/*/*.parquet"))
    assert len(alone) == 18  # a teacher and eight students, two seeds
    for path in alone:
        ours, theirs = (pq.read_table(run / path, partitioning=None) for run in (runs[16], runs[1]))
        assert ours["example_id"].equals(theirs["example_id"])
        for name in (name for name in theirs.column_names if name.startswith("logit_")):
            np.testing.assert_allclose(ours[name].to_numpy(), theirs[name].to_numpy(), atol=2e-5)


def test_a_member_leaves_a_plain_student(runs: dict[int, Path]) -> None:
    for path in runs[1].rglob("checkpoints/*/*/model.safetensors"):
        theirs, ours = load_file(path), load_file(runs[16] / path.relative_to(runs[1]))
        assert theirs.keys() == ours.keys()
        for name, tensor in theirs.items():
            np.testing.assert_allclose(ours[name], tensor, atol=2e-5, err_msg=name)


def test_reports_say_what_training_alone_would(runs: dict[int, Path]) -> None:
    alone, banked = reports(runs[1]), reports(runs[16])
    assert alone.keys() == banked.keys()
    for name, theirs in alone.items():
        ours = banked[name]
        for key in (
            "cell_id",
            "seed",
            "last_day",
            "dense_parameters",
            "table_parameters",
            "flops_per_example",
        ):
            assert ours[key] == theirs[key], key
        assert ours["train_flops"] == pytest.approx(theirs["train_flops"])
        for day, other in zip(ours["days"], theirs["days"], strict=True):
            assert day["examples_seen"] == other["examples_seen"]
            assert day["means"] == pytest.approx(other["means"], rel=1e-4)


def test_reports_name_the_size_of_the_bank(runs: dict[int, Path]) -> None:
    assert {report.get("bank") for report in reports(runs[1]).values()} == {None}
    # none, single and ah of `small`; none and ah of `clicks`; the teacher by itself.
    sizes = sorted(report.get("bank", 1) for report in reports(runs[16]).values())
    assert sizes == [1] * 2 + [2] * 4 + [3] * 12


@pytest.fixture(scope="module")
def opened(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    config = write_experiment(tmp_path_factory.mktemp("open") / "one", data, data.parent / "cache", **COMMON)
    return open_experiment(load_config(config), False, NoProgress())


def tasks(experiment: Experiment) -> list[Task]:
    return [
        Task(experiment, cell, seed) for cell in experiment.student_cells for seed in experiment.config.seeds
    ]


def changed(experiment: Experiment, **students: Any) -> Experiment:
    """The experiment with other settings of its first student."""
    first, *others = experiment.config.students
    config = replace(experiment.config, students=[replace(first, **students), *others])
    return Experiment(config, "", experiment.base, experiment.data, experiment.schedule)


def names(group: list[Task]) -> set[tuple[str, str, str, int]]:
    return {(task.cell.model, task.cell.vertical, task.cell.channel, task.seed) for task in group}


def test_members_share_student_surface_and_seed(opened: Experiment) -> None:
    found = [names(group) for group in groups(tasks(opened), 16)]
    expected = [
        {("small", vertical, channel, seed) for channel in ("none", "single", "ah")}
        for vertical in ("feed", "reels")
        for seed in (0, 1)
    ]
    expected += [{("clicks", "feed", channel, seed) for channel in ("none", "ah")} for seed in (0, 1)]
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))


def test_a_bank_has_no_more_members_than_allowed(opened: Experiment) -> None:
    assert sorted(map(len, groups(tasks(opened), 2))) == [1] * 4 + [2] * 6
    assert set(map(len, groups(tasks(opened), 1))) == {1}


def test_learning_rates_and_weights_may_differ(opened: Experiment) -> None:
    first = opened.config.students[0]
    other = changed(
        opened,
        optimizer=replace(first.optimizer, learning_rate=0.5, table_learning_rate=0.1),
        channel_settings={"ah": {"ah": {"weight": 7.0}}},
    )
    both = [task for task in (*tasks(opened), *tasks(other)) if task.cell.model == "small"]
    assert set(map(len, groups(both, 16))) == {6}


@pytest.mark.parametrize(
    "settings",
    [
        {"options": {"dim": 8, "mlp": [8]}},
        {"features": ["item_id"]},
        {"tasks": ["click"]},
        {"delayed_labels": "weighted"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_students_that_differ_stay_apart(opened: Experiment, settings: dict[str, Any]) -> None:
    both = (*tasks(opened), *tasks(changed(opened, **settings)))
    assert set(map(len, groups([task for task in both if task.cell.model == "small"], 16))) == {3}


def test_batches_of_another_size_stay_apart(opened: Experiment) -> None:
    optimizer = replace(opened.config.students[0].optimizer, batch_size=51)
    both = (*tasks(opened), *tasks(changed(opened, optimizer=optimizer)))
    assert set(map(len, groups([task for task in both if task.cell.model == "small"], 16))) == {3}


def test_another_form_of_a_channel_stays_apart(opened: Experiment) -> None:
    other = changed(opened, channel_settings={"ah": {"ah": {"loss": "mse_logit"}}})
    both = [task for task in (*tasks(opened), *tasks(other)) if names([task]) == {("small", "feed", "ah", 0)}]
    assert len(both) == 2
    assert list(map(len, groups(both, 16))) == [1, 1]


REPRESENTATION = {"taps": ["user"], "dim": 8}
ALL = {
    "ah": {"other_surfaces": 1.0},
    "adapter": {},
    "repr": {"group": "both", "dim": 8},
    "sharing": {"dim": 8},
}
HEAVY = ALL | {"ah": {"other_surfaces": 1.0, "weight": 2.0}}


def test_members_share_their_fields_and_the_rows_of_other_surfaces(data: Path, tmp_path: Path) -> None:
    sets = {
        **EXPERIMENT["channels"],
        "ah_adapter": {"ah": {}, "adapter": {}},
        "wide": {"ah": {"other_surfaces": 0.5}},
        "wide_heavy": {"ah": {"other_surfaces": 0.5, "weight": 2.0}},
        "wider": {"ah": {"other_surfaces": 1.0}},
        "repr": {"repr": {"dim": 8}},
        "repr_ah": {"repr": {"dim": 8}, "ah": {}},
        "all": ALL,
        "all_heavy": HEAVY,
        "trained": {"sharing": {"copies": "trained"}},
    }
    changes = {**COMMON, "channels": sets, "teacher__representation": REPRESENTATION}
    config = write_experiment(tmp_path / "one", data, data.parent / "cache", **changes)
    experiment = open_experiment(load_config(config), False, NoProgress())
    found = [names(group) for group in groups(tasks(experiment), 16)]
    together: list[set[str]] = [{"none", "single", "ah", "ah_adapter"}, {"wide", "wide_heavy"}, {"wider"}]
    together += [{"repr", "repr_ah"}, {"all", "all_heavy"}, {"trained"}]
    for channels in together:
        assert {("small", "feed", channel, 0) for channel in channels} in found


def test_members_that_learn_by_everything_are_those_trained_alone(data: Path, tmp_path: Path) -> None:
    student = EXPERIMENT["students"][0] | {"verticals": ["reels"], "channels": ["all", "all_heavy"]}
    changes: dict[str, Any] = {
        "seeds": [0],
        "floor": False,
        "students": [student],
        "channels": {"all": ALL, "all_heavy": HEAVY},
        "teacher__representation": REPRESENTATION,
    }
    config = write_experiment(tmp_path / "one", data, data.parent / "cache", **changes)
    assert main(["run", str(config)]) == 0
    out = tmp_path / "one" / "out"
    theirs, models = (
        reports(out),
        {path: load_file(path) for path in out.rglob("checkpoints/*/*/model.safetensors")},
    )
    experiment = open_experiment(load_config(config), False, NoProgress())
    (group,) = (one for one in groups(tasks(experiment), 16) if len(one) > 1)
    train_bank(group, NoProgress())
    ours = reports(out)
    assert sorted(report.get("bank", 1) for report in ours.values()) == [1, 1, 2, 2]
    for name, report in theirs.items():
        for day, other in zip(ours[name]["days"], report["days"], strict=True):
            assert day["examples_seen"] == other["examples_seen"]
            assert day["means"] == pytest.approx(other["means"], rel=1e-3, abs=1e-6)
    for path, expected in models.items():
        found = load_file(path)
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            np.testing.assert_allclose(found[name], tensor, atol=2e-4, err_msg=name)


def test_a_bank_is_trained_whole_when_one_member_is_missing(runs: dict[int, Path]) -> None:
    experiment = open_experiment(load_config(runs[16].parent / "tiny.yaml"), False, NoProgress())
    assert training_jobs(tasks(experiment), 16) == []
    (cell, *_) = [cell for cell in experiment.student_cells if cell.channel == "single"]
    report = experiment.checkpoint_folder(cell, 0) / "report.json"
    kept = report.read_text()
    report.unlink()
    try:
        (job,) = training_jobs(tasks(experiment), 16)
        (alone,) = training_jobs(tasks(experiment), 1)
    finally:
        report.write_text(kept)
    (members,) = job.arguments
    assert {task.cell.channel for task in members} == {"none", "single", "ah"}
    assert job.examples == 3 * alone.examples > 0  # as progress counts them


def test_a_student_that_diverges_leaves_the_others(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    students = [dict(EXPERIMENT["students"][0])]
    students[0]["verticals"] = ["feed"]
    students[0]["channel_optimizers"] = {"single": {"batch_size": 50, "learning_rate": 1e30}}
    config = write_experiment(
        tmp_path / "one", data, data.parent / "cache", students=students, seeds=[0], floor=False, bank=16
    )
    assert main(["run", str(config)]) != 0
    told = capsys.readouterr().err
    assert "small feed single seed 0: " in told and "Traceback" not in told
    assert len(list((tmp_path / "one" / "out" / "predictions").glob("*/0.parquet"))) == 3  # gem, none, ah
