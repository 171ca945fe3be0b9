"""The tuning study: equal trials, one log for all, nothing done twice, the number that PROTOCOL.md names."""

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.metrics import log_loss

import experiments.catalog  # noqa: F401  fills the registries
from distill.cells import Cell
from distill.errors import ConfigErrors, UserError
from distill.load_config import LoadedConfig
from distill.progress import NoProgress
from experiments.pipeline.experiment import Planned
from experiments.studies import tuning
from experiments.studies.tuning import best_of, left_aside, read_rows
from experiments.studies.tuning_file import Tuning, read_tuning

EXPERIMENT: dict[str, Any] = {
    "name": "tiny",
    "output": "unused",
    "data": {
        "source": "simulator",
        "options": {"days": 6, "rows_per_day": 300, "users": 60, "items": 40, "history_events": 3.0},
    },
    "teacher": {"options": {"dim": 4, "sequence": {"heads": 1}, "history_length": 4, "mlp": [8]}},
    "channels": {"ah": {"ah": {"weight": 1.0}}},
    "students": [
        {"name": "small", "verticals": ["feed", "stories"], "options": {"dim": 4, "mlp": [8]}},
    ],
    "schedule": {"tune_days": [4, 5], "test_days": [6]},
    "workers": 1,
}
DOMAIN: dict[str, Any] = {
    "name": "apps",
    "verticals": ["feed", "stories"],
    "options": {"dim": 4, "sequence": {"heads": 1}, "history_length": 4, "mlp": [8]},
}
TRIALS: dict[str, Any] = {
    "teacher": [{"teacher.optimizer.learning_rate": 0.001}],
    "none": [{"students.small.channel_optimizers.none": {"batch_size": 64}}],
    "ah": [{"channels.ah.ah.weight": 2.0}],
}


def write(folder: Path, changes: dict[str, Any] | None = None, **change: Any) -> Path:
    # Parts used twice are written twice: the YAML allows no anchors.
    settings = EXPERIMENT | (changes or {}) | {"data": _data(folder)}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(settings))))
    content = {
        "experiment": "experiment.yaml",
        "output": str(folder / "runs"),
        "table": str(folder / "table.csv"),
        "seeds": [100, 101],
        "trials": TRIALS,
    }
    (folder / "tuning.yaml").write_text(yaml.safe_dump(content | change))
    return folder / "tuning.yaml"


def _data(folder: Path) -> dict[str, object]:
    data = EXPERIMENT["data"]
    assert isinstance(data, dict)
    return data | {"cache": str(folder / "data")}


def tune(path: Path, *settings: str) -> list[dict[str, str]]:
    return tuning.tune(read_tuning(path), path, settings, NoProgress())


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    """The folder of a study, and its rows."""
    folder = tmp_path_factory.mktemp("tuned")
    return folder, tune(write(folder))


def test_macro_logloss_is_the_mean_over_verticals_tasks_and_seeds(
    tuned: tuple[Path, list[dict[str, str]]],
) -> None:
    folder, rows = tuned[0], {row["channel"]: row for row in tuned[1]}
    assert set(rows) == {"teacher", "none", "ah"}
    expected = []
    for path in sorted((folder / "runs" / "ah-0" / "predictions").glob("*/*.parquet")):
        table = pq.read_table(path)
        tune_rows = np.array(table["split"].to_pylist()) == "tune"
        for task in ("click", "conversion"):
            logit, label = (
                table[f"logit_{task}"].to_numpy()[tune_rows],
                table[f"label_{task}"].to_numpy()[tune_rows],
            )
            expected.append(log_loss(label, 1 / (1 + np.exp(-logit.astype(float))), labels=[0, 1]))
    assert len(expected) == 2 * 2 * 2
    assert float(rows["ah"]["macro_logloss"]) == pytest.approx(np.mean(expected), abs=2e-6)


def test_a_second_call_runs_nothing(tuned: tuple[Path, list[dict[str, str]]]) -> None:
    folder, first = tuned
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}
    assert tune(folder / "tuning.yaml") == first
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")} == stamps
    with (folder / "table.csv").open() as file:
        written = {row["channel"]: json.loads(row["settings"]) for row in csv.DictReader(file)}
    assert written == {channel: trials[0] for channel, trials in TRIALS.items()}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trials that would be trained, in order; each gets a log-loss of one for every trial before it."""
    names: list[str] = []

    def run_all(
        study: Tuning, path: Path, missing: Any, loaded: dict[str, LoadedConfig], *more: object
    ) -> None:
        for trial in missing:
            tuning._append(study, trial, Planned(loaded[trial.place].config), len(names))
            names.append(trial.name)

    monkeypatch.setattr(tuning, "_run_all", run_all)
    return names


STUDENT = EXPERIMENT["students"][0]


@pytest.mark.parametrize(
    ("changes", "change", "again"),
    [
        ({}, {}, []),
        ({"seeds": [7], "output": "elsewhere", "workers": 2}, {}, []),
        ({"students": [STUDENT | {"options": {"dim": 8, "mlp": [8]}}]}, {}, ["ah", "none"]),
        ({"channels": {"ah": {"ah": {"beta": 0.5}}}}, {}, ["ah"]),
        ({"teacher": {"options": EXPERIMENT["teacher"]["options"] | {"dim": 8}}}, {}, ["teacher", "ah"]),
        ({"schedule": {"tune_days": [5], "test_days": [6]}}, {}, ["teacher", "ah", "none"]),
        ({}, {"seeds": [100, 102]}, ["teacher", "ah", "none"]),
        ({}, {"seeds": [100]}, ["teacher", "ah", "none"]),
    ],
)
def test_rows_of_other_settings_or_seeds_are_neither_done_nor_ranked(
    tmp_path: Path, run: list[str], changes: dict[str, Any], change: dict[str, Any], again: list[str]
) -> None:
    first = tune(write(tmp_path))
    assert run == ["teacher", "ah", "none"] and not left_aside(read_tuning(tmp_path / "tuning.yaml"), first)
    del run[:]
    path = write(tmp_path, changes, **change)
    rows = tune(path)
    assert run == again
    assert sorted(row["channel"] for row in rows) == ["ah", "none", "teacher"]
    assert len(read_rows(read_tuning(path))) == 3 + len(again)
    rows_of = "1 row" if len(again) == 1 else f"{len(again)} rows"
    said = f"Left aside: {rows_of} of other trials, settings, data or seeds." if again else ""
    assert left_aside(read_tuning(path), rows) == said


def test_other_data_are_tuned_anew(tmp_path: Path, run: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by what is in the files, wherever they lie."""
    tune(write(tmp_path))
    monkeypatch.setattr(tuning, "fingerprint_of", lambda data: "other bytes")
    tune(tmp_path / "tuning.yaml")
    assert run == ["teacher", "ah", "none"] * 2


def test_a_table_from_before_rows_said_of_which_settings_they_are(tmp_path: Path, run: list[str]) -> None:
    path = write(tmp_path)
    settings = json.dumps(TRIALS["ah"][0])
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["role", "channel", "trial", "settings", "macro_logloss", "seeds", "git_commit"])
        writer.writerow(["student", "ah", 0, settings, "0.100000", 2, "c0ffee"])
    rows = tune(path)
    assert run == ["teacher", "ah", "none"] and min(float(row["macro_logloss"]) for row in rows) == 0
    before, *after = read_rows(read_tuning(path))
    assert (before["settings"], before["seeds"], before["config_hash"]) == (settings, "2", "")
    assert [row["channel"] for row in after] == run
    assert left_aside(read_tuning(path), rows) == (
        "Left aside: 1 row of other trials, settings, data or seeds; 1 from before rows said of which they are."
    )


TABLES = sorted((Path(__file__).parents[2] / "experiments" / "results").glob("tuning_*.csv"))


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_published_tables_are_read(table: Path) -> None:
    rows = read_rows(Tuning(table=str(table)))
    assert rows and all(0 < float(row["macro_logloss"]) < 1 for row in rows)


def test_a_channel_set_may_be_tuned_for_each_student(tmp_path: Path) -> None:
    students = [EXPERIMENT["students"][0] | {"name": name} for name in ("small", "large")]
    trials = {
        "none": [{"students.small.channel_optimizers.none": {"batch_size": 64}}],
        "small/ah": [{"channels.ah.ah.weight": 2.0}],
        "large/ah": [{"channels.ah.ah.weight": 0.5}],
    }
    rows = tune(write(tmp_path, {"students": students}, trials=trials, seeds=[100]))
    assert {row["channel"] for row in rows} == set(trials)
    trained = {name: read_cells_with_predictions(tmp_path / "runs" / f"{name}-0") for name in trials}
    assert trained == {"none": {"small", "large"}, "small/ah": {"small"}, "large/ah": {"large"}}


def read_cells_with_predictions(folder: Path) -> set[str]:
    """Names of the models that have been trained in a trial's folder."""
    reports = [json.loads(path.read_text()) for path in folder.glob("checkpoints/*/100/report.json")]
    ids = {report["cell_id"] for report in reports}
    asked = itertools.product(("small", "large"), ("feed", "stories"), ("none", "ah"))
    cells = [
        Cell("tiny", model, "student", vertical, "progressive", "thin", "direct", 1, channel)
        for model, vertical, channel in asked
    ]
    assert len(ids) == sum(cell.cell_id in ids for cell in cells)
    return {cell.model for cell in cells if cell.cell_id in ids}


def test_trials_share_the_teachers_of_both_hops(tmp_path: Path) -> None:
    students = [EXPERIMENT["students"][0] | {"route": "hierarchical"}]
    trials = {"none": [{}], "ah": [{"channels.ah.ah.weight": 2.0}]}
    path = write(tmp_path, {"students": students, "domain_teachers": [DOMAIN]}, trials=trials, seeds=[100])
    tune(path)
    base, trial = tmp_path / "runs" / "base", tmp_path / "runs" / "ah-0"
    for name in ("teacher", "teacher_log", "domain_teachers"):
        assert (trial / name).is_symlink() and (trial / name).samefile(base / name)
    assert len(list(trial.glob("checkpoints/*/*/report.json"))) == 2, "two surfaces, no teacher"
    assert list((trial / "domain_teachers" / "apps" / "teacher_log").glob("*/*/day-*.parquet"))


def test_trials_find_the_past_that_their_channels_ask_for(tmp_path: Path) -> None:
    """Written for the trial's own settings, and of it what is there already is not written again."""
    teacher = EXPERIMENT["teacher"] | {"representation": {"taps": ["penultimate"], "dim": 8}}
    channels = {"repr": {"repr": {"dim": 8, "heads": 1, "history_length": 4}}}
    trials = {"repr": [{}, {"channels.repr.repr.history_length": 2}, {"channels.repr.repr.group": "item"}]}
    path = write(tmp_path, {"teacher": teacher, "channels": channels}, trials=trials, seeds=[100])
    assert len(tune(path)) == 3
    stored = {path.name for path in (tmp_path / "runs/base/teacher_log/100/lag-1").glob("past-*")}
    assert stored == {"past-procrustes-int8-user", "past-procrustes-int8-item-3"}
    for number in range(3):
        assert (tmp_path / f"runs/repr-{number}/teacher_log").samefile(tmp_path / "runs/base/teacher_log")


def test_domain_teachers_that_teach_nobody_are_not_trained(tmp_path: Path) -> None:
    path = write(tmp_path, {"domain_teachers": [DOMAIN]}, trials={"ah": [{}]}, seeds=[100])
    tune(path)
    assert not (tmp_path / "runs" / "base" / "domain_teachers").exists()


def test_the_best_of_each_channel_set() -> None:
    rows = [
        {"channel": "ah", "trial": "2"},
        {"channel": "ah", "trial": "0"},
        {"channel": "none", "trial": "1"},
    ]
    assert [row["trial"] for row in best_of(rows)] == ["2", "1"]


def test_a_wrong_last_trial_is_refused_before_the_first_is_run(tmp_path: Path) -> None:
    path = write(tmp_path, trials={"none": TRIALS["none"], "ah": [{"channels.ah.ah.wight": 2.0}]})
    with pytest.raises(ConfigErrors, match="channels.ah.ah.wight"):
        tune(path)
    assert not (tmp_path / "runs").exists() and not (tmp_path / "table.csv").exists()


def test_settings_of_the_command_line_are_those_that_change_no_result(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="--set teacher.name=x: got the key teacher.name, allowed .*: data.root, "
    ):
        tune(write(tmp_path), "workers=2", "teacher.name=x")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ahh", "trials: got 'ahh', allowed: teacher, none, ah, small/none, small/ah. Did you mean 'ah'?"),
        ("large/ah", "trials: got 'large/ah', allowed: teacher, none, ah, small/none, small/ah."),
    ],
)
def test_trials_of_what_the_experiment_does_not_have(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        tune(write(tmp_path, trials={name: [{}]}))
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trials": TRIALS | {"none": [{}, {}]}}, "the same number for every channel set"),
        ({"trials": {"small/ah": [{}], "none": [{}, {}]}}, "2 of none, 1 of small/ah"),
        ({"trials": {"small/ah": [{}], "ah": [{}]}}, "trials.small/ah: got 'small/ah' beside 'ah'"),
        (
            {"trials": {"ah": [{"teacher.options.dim": 8}]}},
            "the key teacher.options.dim; allowed: keys of students",
        ),
        ({"trials": {}}, "trials: got no trials"),
        ({"tables": "x"}, "tables: got an unknown key; allowed: experiment, output, table, seeds, trials"),
        ({"seeds": [1, 1]}, r"seeds\[1\]: got 1 a second time"),
        ({"experiment": "none.yaml"}, "experiment: got 'none.yaml', which is not there"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_tuning(write(tmp_path, **change))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none.yaml: file: got no such file"):
        read_tuning(tmp_path / "none.yaml")


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_tuning(write(tmp_path, tables="x", seeds=[], trials=TRIALS | {"none": [{}, {}]}))
    assert len(str(caught.value).splitlines()) == 3
