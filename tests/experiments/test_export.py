"""A student of a run as a folder: what it says, what is in it, what is refused. Nothing is trained for it."""

from __future__ import annotations

import json
import subprocess
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import experiments.catalog  # noqa: F401
from distill.checkpoint import save_model
from distill.load_config import load_config
from distill.progress import progress_on
from experiments.__main__ import main
from experiments.exporting import Parity, choose, refuse, write_export
from experiments.pipeline.build import build_student
from experiments.pipeline.run import open_experiment
from students.export import Export
from tests.experiments.bare_environment import make_environment
from tests.experiments.raw_ids import with_raw_ids
from tests.experiments.tiny_experiment import write_days, write_experiment

BARE = Path(__file__).parents[2] / "experiments" / "examples" / "score_bare.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose students have random parameters."""
    folder = tmp_path_factory.mktemp("export")
    data = with_raw_ids(write_days(folder / "data"))
    file = write_experiment(folder / "tiny", data, folder / "cache")
    loaded = load_config(file)
    experiment = open_experiment(loaded, False, progress_on())
    experiment.folder.mkdir(parents=True)
    (experiment.folder / "config.yaml").write_text(loaded.to_yaml())
    for cell, student in experiment.student_cells.items():
        model, _ = build_student(
            student,
            experiment.channels_of(cell),
            student.optimizer,
            experiment.data.schema,
            0,
            experiment.base,
        )
        # Of the size that trained ones have: of larger ones, sums in another order differ by more than 1e-6.
        state = {name: 0.3 * torch.randn_like(value) for name, value in model.state_dict().items()}
        model.load_state_dict(state)
        path = experiment.checkpoint_folder(cell, 0) / "model.safetensors"
        save_model(model, path, {"trained_through": 5, "seed": 0})
    return experiment.folder


@pytest.fixture(scope="module")
def export(run: Path) -> Path:
    """An fp32 export of the student without a history, written by the command."""
    target = run / "exports" / "small"
    arguments = ["small", "--vertical", "feed", "--channel", "ah", "--no-compile", "--to", str(target)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # torch's own, which a user could only wonder at
        assert main(["export", str(run), *arguments]) == 0
    return target


def test_only_what_is_served_is_inside(run: Path, export: Path) -> None:
    program = torch.export.load(export / "program.pt2")
    inside = {name.removeprefix("student.") for name in program.state_dict}
    student = choose(run, "small", "feed", "ah", 0).model
    served = {name for name in student.state_dict() if not name.startswith("tables.")}
    assert inside == served
    assert [path.name for path in (export / "tables").iterdir()] == ["tables.rows.npy"]


def test_program_holds_no_pickle_and_no_file_names(export: Path) -> None:
    with zipfile.ZipFile(export / "program.pt2") as file:
        sizes = {entry.filename: entry.file_size for entry in file.infolist()}
        pickled = [name for name, size in sizes.items() if size and name.endswith((".pt", ".pkl"))]
        text = b"".join(file.read(name) for name in sizes if name.endswith(".json"))
    assert pickled == []
    assert str(BARE.parents[2]).encode() not in text


def test_score_gives_the_expected_logits(export: Path, tmp_path: Path) -> None:
    out = tmp_path / "scored.parquet"
    assert main(["score", str(export), str(export / "example.parquet"), "--out", str(out)]) == 0
    scored, expected = pq.read_table(out), pq.read_table(export / "expected.parquet")
    for name in expected.column_names:
        np.testing.assert_allclose(scored[name].to_numpy(), expected[name].to_numpy(), rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with what the example needs, and no more."""
    return make_environment(tmp_path_factory.mktemp("bare") / "environment", ["torch", "numpy", "pyarrow"])


def run_bare(python: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, "-I", *arguments], capture_output=True, text=True, cwd="/")


@pytest.mark.parametrize("package", ["distill", "students", "torchrec", "fbgemm_gpu"])
def test_bare_environment_has_nothing_of_the_project(bare: Path, package: str) -> None:
    assert f"No module named '{package}'" in run_bare(bare, "-c", f"import {package}").stderr


def test_bare_example_gives_the_same_for_rows_as_they_were_brought(
    bare: Path, run: Path, export: Path, tmp_path: Path
) -> None:
    """The pipeline's scores of the last tuning day, for the raw rows of that day's file."""
    brought = pq.read_table(run.parents[1] / "data" / "date=2026-01-05" / "rows.parquet", partitioning=None)
    wanted = pq.read_table(export / "example.parquet")["example_id"]
    places = [brought["example_id"].to_pylist().index(one) for one in wanted.to_pylist()]
    pq.write_table(brought.take(places), tmp_path / "rows.parquet")
    done = run_bare(bare, BARE, export, tmp_path / "rows.parquet")
    assert done.returncode == 0, done.stderr
    rows = np.array([line.split() for line in done.stdout.splitlines()], np.float32)
    expected = pq.read_table(export / "expected.parquet")
    columns = [expected[name].to_numpy() for name in expected.column_names]
    np.testing.assert_allclose(rows, np.stack(columns, axis=1), atol=2e-6)


def test_missing_and_wrong_features_are_named(export: Path) -> None:
    loaded, table = Export.load(export), pq.read_table(export / "example.parquet")
    with pytest.raises(ValueError, match="column 'item_id' is missing"):
        loaded.score(table.drop_columns("item_id"))
    for name, value, message in (
        ("item_id", 60, "item_id: got 60 .*allowed: 0 to 59"),
        ("item_id", "a", "item_id: got string, allowed: integers"),
        ("user_id", 7, "user_id: got int64, allowed: texts"),
        ("shop", "a", "shop: got string, allowed: whole numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            loaded.score(changed(table, name, value))


def changed(table: pa.Table, name: str, value: Any) -> pa.Table:
    """The table with one value in every row of a column."""
    return table.set_column(table.column_names.index(name), name, pa.array([value] * table.num_rows))


def test_users_that_the_data_never_held_are_scored_as_unknown_ones(export: Path) -> None:
    loaded, table = Export.load(export), pq.read_table(export / "example.parquet")
    nobody, new, known = (changed(table, "user_id", value) for value in (None, "nobody", "user 007"))
    scores = [loaded.score(rows)["click"] for rows in (nobody, new, known)]
    assert np.array_equal(scores[0], scores[1]) and not np.allclose(scores[1], scores[2])


def test_folder_says_how_raw_ids_become_rows(export: Path) -> None:
    signature = json.loads((export / "signature.json").read_text())
    (shop,) = [one for one in signature["features"] if one["name"] == "shop"]
    assert (shop["ids"], shop["raw"], shop["size"], shop["unknown"]) == ("hash", "integer", 16, True)
    assert [path.name for path in (export / "vocabulary").iterdir()] == ["user_id.parquet"]
    assert signature["ids"] == {
        "user_id": "any text; the row is the value's place in vocabulary/user_id.parquet; null and unknown values: "
        "row 0",
        "item_id": "rows of the table, whole numbers from 0 to 59",
        "shop": "any integer; the row is 1 + h mod 15, h the 64-bit FNV-1a hash of its 8 little-endian bytes; null: "
        "row 0",
        "words": "any text; the row is 1 + h mod 7, h the 64-bit FNV-1a hash of its UTF-8 bytes; null: row 0",
    }
    assert f"- `shop`: {signature['ids']['shop']}." in (export / "MODEL_CARD.md").read_text()


def test_changed_file_is_refused(export: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(export, tmp_path / "copy")
    path = copy / "tables" / "tables.rows.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="tables.rows.npy: sha256: got .*allowed"):
        Export.load(copy)


def test_choice_must_be_one_that_the_run_has(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "small", "--vertical", "feed"]) == 2
    assert "--channel: got nothing, allowed: none, single, ah" in capsys.readouterr().err


def test_order_of_sums_stays_where_another_would_differ_too_much(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No difference is allowed: what is left is the student's own order, and the card says so."""
    monkeypatch.setattr("experiments.exporting.TOLERANCE", 0.0)
    parity = write_export(choose(run, "small", "feed", "ah", 0), tmp_path / "small", "fp32", False, "")
    assert parity.difference == 0
    assert "computed once for each user: no, " in (tmp_path / "small" / "MODEL_CARD.md").read_text()


def test_precision_that_changes_ne_too_much_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--precision: got int8, with which NE changes by 0\.0300 %"):
        refuse(Parity(rows=100, difference=0.1, ne=3e-4), "int8")


def test_fp32_that_differs_is_refused() -> None:
    with pytest.raises(ValueError, match="logits differ .* by 2.00e-06, allowed: 1e-06"):
        refuse(Parity(rows=100, difference=2e-6, ne=0.0), "fp32")
