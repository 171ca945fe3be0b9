"""Run folders and experiments that somebody has changed: exit code 2 or as before, and nothing written elsewhere."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.errors import UserError
from experiments.__main__ import main
from experiments.recorded import read_run
from tests.distill.test_hostile import EXAMPLES, mutated
from tests.experiments.synthetic_run import write_synthetic_run
from tests.experiments.tiny_experiment import EXPERIMENT, write_days, write_experiment


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder."""
    folder = tmp_path_factory.mktemp("run") / "out"
    write_synthetic_run(folder, seeds=(0,), users=60, rows_per_day=60)
    return folder


JSON_FILES = ("results.json", "status.json")


@settings(max_examples=EXAMPLES)
@given(data=st.data(), name=st.sampled_from([*JSON_FILES, "config.yaml"]))
def test_mutated_files_of_a_run(run: Path, data: st.DataObject, name: str) -> None:
    path = run / name
    whole = path.read_text() if path.is_file() else "{}"
    # Every row of the scores is like the others: some of them are enough.
    content = yaml.safe_load(whole) if name == "config.yaml" else json.loads(whole)
    content = {key: value[:3] if isinstance(value, list) else value for key, value in content.items()}
    changed = mutated(content, data)
    path.write_text(
        yaml.safe_dump(changed, allow_unicode=True) if name == "config.yaml" else json.dumps(changed)
    )
    try:
        read_run(run)
    except UserError as error:
        assert name in str(error)
    finally:
        path.write_text(whole)


@pytest.mark.parametrize("name", ["results.json", "config.yaml", "cells.csv"])
@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"{", b"\xff\xfe", b"5", b"[" * 50_000])
def test_file_of_a_run_that_is_none(
    run: Path, tmp_path: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(run, folder)
    (folder / name).write_bytes(content)
    code = main(["compare", str(folder)])
    said = capsys.readouterr().err
    # A run is read as far as it was written: one without settings is shown with less.
    assert code == 2 and name in said or code == 0 and (name, content) == ("config.yaml", b""), said


ESCAPES = ("../up", "/elsewhere/x", "a/b", "..", "a\\b", "a\0b", "~")


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("place", ["name", "teacher", "student", "channels"])
def test_names_that_would_leave_the_run_folder(
    tmp_path: Path, place: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content: dict[str, Any] = copy.deepcopy(EXPERIMENT)
    if place == "name":
        content["name"] = name
    elif place == "channels":
        content["channels"] = {name: {"ah": {}}}
    elif place == "teacher":
        content["teacher"]["name"] = name
    else:
        content["students"][0]["name"] = name
    content |= {"output": str(tmp_path / "out"), "data": {"cache": str(tmp_path / "cache")}}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(content))
    assert main(["run", str(tmp_path / "e.yaml")]) == 2
    assert "letters, digits and _ + -" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.yaml"]


@pytest.mark.parametrize("modality", ["../up", "/elsewhere/x", "a/b"])
def test_modalities_of_a_data_set_that_would_leave_its_folder(tmp_path: Path, modality: str) -> None:
    data = write_days(tmp_path / "data", rows=30)
    schema = yaml.safe_load((data / "schema.yaml").read_text()) | {"content": {modality: {"width": 2}}}
    (data / "schema.yaml").write_text(yaml.safe_dump(schema))
    assert main(["run", str(write_experiment(tmp_path / "e", data, tmp_path / "cache"))]) == 2
    assert not (tmp_path / "cache").exists() or not any((tmp_path / "cache").rglob("*.npy"))


WITNESS = "import pathlib; pathlib.Path({!r}).write_text('run')\nclass Mine: pass\n"


def test_validate_runs_no_architecture_and_a_run_only_what_its_config_names(tmp_path: Path) -> None:
    for name in ("named", "beside"):
        (tmp_path / f"{name}.py").write_text(WITNESS.format(str(tmp_path / f"{name}.ran")))
    data = write_days(tmp_path / "data", rows=30)
    student = EXPERIMENT["students"][0] | {
        "architecture": "../named.py:Mine",
        "options": {},
        "channels": ["none"],
    }
    changes: dict[str, Any] = {
        "teacher": None,
        "channels": {"none": {}},
        "students": [student],
        "floor": False,
    }
    file = write_experiment(tmp_path / "e", data, tmp_path / "cache", **changes)
    assert main(["validate", str(file)]) == 0
    assert list(tmp_path.glob("*.ran")) == []
    assert main(["run", str(file)]) == 2  # it is no architecture
    assert [path.name for path in tmp_path.glob("*.ran")] == ["named.ran"]


@pytest.mark.parametrize(
    "change",
    [
        "threads=99999999999999999999",
        "threads=100000",
        "workers=-1",
        "seeds=[99999999999999999999]",
        "schedule.lag=99999999999999999999",
        "teacher.options.dim=99999999999999999999",
        "students.small.optimizer.batch_size=99999999999999999999",
    ],
)
def test_counts_beyond_reason(tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_days(tmp_path / "data", rows=30)
    file = write_experiment(tmp_path / "e", data, tmp_path / "cache")
    assert main(["validate", str(file), "--set", change]) == 2, capsys.readouterr()
