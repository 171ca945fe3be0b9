"""The tuning study: equal trials, one log for all, nothing done twice, the number that PROTOCOL.md names."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.metrics import log_loss

import experiments.catalog  # noqa: F401  fills the registries
from distill.errors import UserError
from distill.progress import NoProgress
from experiments.studies.tuning import read_tuning, tune

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
TRIALS: dict[str, Any] = {
    "teacher": [{"teacher.optimizer.learning_rate": 0.001}],
    "none": [{"students.small.channel_optimizers.none": {"batch_size": 64}}],
    "ah": [{"channels.ah.ah.weight": 2.0}],
}


def write(folder: Path, **change: object) -> Path:
    (folder / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT | {"data": _data(folder)}))
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


def test_macro_logloss_is_the_mean_over_verticals_tasks_and_seeds(tmp_path: Path) -> None:
    rows = {row["channel"]: row for row in tune(read_tuning(write(tmp_path)), NoProgress())}
    assert set(rows) == {"teacher", "none", "ah"}
    expected = []
    for path in sorted((tmp_path / "runs" / "ah-0" / "predictions").glob("*/*.parquet")):
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


def test_a_second_call_runs_nothing(tmp_path: Path) -> None:
    tuning = read_tuning(write(tmp_path))
    first = tune(tuning, NoProgress())
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}
    assert tune(tuning, NoProgress()) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")} == stamps
    with (tmp_path / "table.csv").open() as file:
        written = {row["channel"]: json.loads(row["settings"]) for row in csv.DictReader(file)}
    assert written == {channel: trials[0] for channel, trials in TRIALS.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trials": TRIALS | {"none": [{}, {}]}}, "the same number for every channel set"),
        ({"trials": {}}, "trials: got no trials"),
        ({"tables": "x"}, "tables: got an unknown key; allowed: experiment, output, table, seeds, trials"),
        ({"seeds": [1, 1]}, r"seeds\[1\]: got 1 a second time"),
        ({"experiment": "none.yaml"}, "experiment: got 'none.yaml', which is not there"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_tuning(write(tmp_path, **change))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none.yaml: file: got no such file"):
        read_tuning(tmp_path / "none.yaml")


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_tuning(write(tmp_path, tables="x", seeds=[], trials=TRIALS | {"none": [{}, {}]}))
    assert len(str(caught.value).splitlines()) == 3
