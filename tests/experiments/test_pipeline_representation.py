"""Representations through the real commands: trained beside the teacher, kept in snapshots, written into the log."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

import experiments.catalog  # noqa: F401  fills the registries
from distill.checkpoint import file_hash, load_model
from distill.dataset import DataSet
from distill.load_config import load_config
from distill.representations import read_representations
from distill.stream import DayStream
from distill.teacher_log import TeacherLog
from experiments.__main__ import main
from experiments.pipeline.build import build_autoencoder, build_model
from tests.experiments.tiny_experiment import TASKS, write_days, write_experiment

ROWS = 300
TAPS = ["user", "interaction_1", "penultimate"]
ASKED = {"taps": TAPS, "dim": 7, "hidden": [16], "prefixes": [2], "learning_rate": 0.01}
BOUNDS = {"fp16": 2.0**-12, "int8": 0.5 / 127 + 1e-7, "int4": 0.2}
BYTES = {"fp16": 14, "int8": 7, "int4": 4}
DAYS = {3: 1, 4: 2}
"""Logged days, and the days through which their snapshots were trained."""

Run = Callable[[str | None], Path]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_days(folder / "mine", rows=ROWS)
    return folder


def config_of(base: Path, folder: Path, representation: dict[str, Any] | None) -> Path:
    """An experiment of a teacher alone."""
    changes: dict[str, Any] = {"seeds": [0], "students": [], "floor": False}
    if representation is not None:
        changes["teacher__representation"] = representation
    return write_experiment(folder, base / "mine", base / "cache", **changes)


@pytest.fixture(scope="module")
def run_of(base: Path) -> Run:
    """codec, or None for a teacher without representation -> folder of the run, teacher and log."""
    done: dict[str | None, Path] = {}

    def run(codec: str | None) -> Path:
        if codec not in done:
            asked = None if codec is None else ASKED | {"codec": codec}
            config = config_of(base, base / str(codec), asked)
            assert main(["teacher", str(config)]) == 0 and main(["log", str(config)]) == 0
            done[codec] = config.parent / "out"
        return done[codec]

    return run


def log_of(out: Path) -> Path:
    return out / "teacher_log" / "0" / "lag-1"


def data_of(base: Path) -> DataSet:
    (prepared,) = [path for path in (base / "cache").iterdir() if not path.name.startswith(".")]
    return DataSet.open(prepared)


def encoded(base: Path, out: Path, day: int, through: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids and representations of a day by the parameters of one snapshot."""
    loaded, data = load_config(out.parent / "tiny.yaml"), data_of(base)
    teacher = loaded.config.teacher
    assert teacher is not None
    model = build_model("teacher", teacher, teacher.optimizer, data.schema, 5, loaded.base).eval()
    channels = build_autoencoder(teacher.representation, model, 5)
    load_model(model, out / f"teacher/0/snapshots/day-{through:04d}.safetensors", channels)
    stream = DayStream(data, day, 100, model.features, model.dense_features, model.history_length)
    with torch.no_grad():
        found = [(batch.example_id, channels["representation"].encode(model(batch))) for batch in stream]
    ids, values = (torch.cat(column).numpy() for column in zip(*found, strict=True))
    return ids[np.argsort(ids)], values[np.argsort(ids)]


@pytest.mark.parametrize("codec", BOUNDS)
def test_log_holds_what_the_snapshot_says(base: Path, run_of: Run, codec: str) -> None:
    out = run_of(codec)
    for day, through in DAYS.items():
        ids, values = encoded(base, out, day, through)
        stored = read_representations(log_of(out), day, TAPS)
        assert np.array_equal(stored.example_id, ids) and stored.codes.shape == (ROWS, BYTES[codec])
        np.testing.assert_allclose(stored.values(), values, atol=BOUNDS[codec])
        assert values.std(axis=0).max() > 0.01
        snapshot = out / f"teacher/0/snapshots/day-{through:04d}.safetensors"
        assert stored.manifest.checkpoint == file_hash(snapshot)


def test_manifest_names_what_was_asked_for(run_of: Run) -> None:
    facts = json.loads((log_of(run_of("int8")) / "day-0003.json").read_text())["representation"]
    assert facts == {"taps": TAPS, "dim": 7, "prefixes": [2], "codec": "int8", "bytes": 7}


@pytest.mark.parametrize("codec", BOUNDS)
def test_a_stream_joins_them_by_id(base: Path, run_of: Run, codec: str) -> None:
    out, data = run_of(codec), data_of(base)
    snapshots = {2: None, **DAYS}
    log = TeacherLog(log_of(out), TASKS, TASKS, data.fingerprint, snapshots, representation=True)
    ids, values = encoded(base, out, 4, DAYS[4])
    for batch in DayStream(data, 4, 64, ["item_id"], domains=["feed"], teacher=log):
        assert batch.teacher is not None and batch.teacher.representation is not None
        expected = values[np.searchsorted(ids, batch.example_id.numpy())]
        np.testing.assert_allclose(batch.teacher.representation.numpy(), expected, atol=BOUNDS[codec])
    early = next(iter(DayStream(data, 2, 64, ["item_id"], teacher=log))).teacher
    assert early is not None and early.representation is not None
    assert early.representation.shape == (64, 7) and not early.representation.any()


def test_teacher_is_bit_identical_with_and_without(run_of: Run) -> None:
    alone, beside = run_of(None), run_of("int8")
    for day in (1, 2, 3, 4):
        name = f"teacher/0/snapshots/day-{day:04d}.safetensors"
        expected, found = load_file(alone / name), load_file(beside / name)
        own = {key for key in found if not key.startswith("channels.representation.")}
        assert own == set(expected) and len(found) > len(own)
        assert [key for key in own if not torch.equal(expected[key], found[key])] == []
    (expected_file,), (found_file,) = (list(out.glob("predictions/*/0.parquet")) for out in (alone, beside))
    assert pq.read_table(expected_file).equals(pq.read_table(found_file))
    for day in DAYS:
        columns = ["example_id", "logit_click", "logit_order"]
        tables = [
            pq.read_table(log_of(out) / f"day-{day:04d}.parquet", columns=columns) for out in (alone, beside)
        ]
        assert tables[0].equals(tables[1])


def test_without_representation_nothing_of_it_is_written(run_of: Run) -> None:
    out = run_of(None)
    assert not [key for path in out.rglob("day-*.safetensors") for key in load_file(path) if "channel" in key]
    for path in log_of(out).glob("day-*.parquet"):
        assert pq.read_schema(path).names == ["example_id", "logit_click", "logit_order"]
        assert "representation" not in json.loads(path.with_suffix(".json").read_text())


def test_report_tells_loss_and_explained_variance_of_every_day(run_of: Run) -> None:
    (path,) = run_of("int8").glob("checkpoints/*/0/report.json")
    means = [day["means"] for day in json.loads(path.read_text())["days"]]
    names = {"loss", "explained", "explained_2"}
    assert all(of_day.keys() == {"loss_labels", *(f"representation/{n}" for n in names)} for of_day in means)
    loss, explained = (
        [of_day[f"representation/{name}"] for of_day in means] for name in ("loss", "explained")
    )
    assert loss[0] > loss[-1] > 0 and explained[0] < explained[-1] < 1


def test_bytes_of_an_example_are_told(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(base, tmp_path / "a", ASKED)
    assert main(["teacher", str(config)]) == 0 and main(["log", str(config)]) == 0
    lines = re.findall(
        r"teacher log gem seed 0 day (\d): .*, bytes per example ([\d.]+)", capsys.readouterr().err
    )
    for day, told in lines:
        size = (log_of(tmp_path / "a" / "out") / f"day-000{day}.parquet").stat().st_size
        assert float(told) == pytest.approx(size / ROWS, rel=1e-3)
    assert [day for day, _ in lines] == ["3", "4", "5"]
    before = {path: path.stat().st_mtime_ns for path in log_of(tmp_path / "a" / "out").iterdir()}
    assert main(["log", str(config)]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before, "written again"


def test_unknown_tap_is_refused_with_those_there_are(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(base, tmp_path / "a", ASKED | {"taps": ["penultimate", "usr"]})
    assert main(["teacher", str(config)]) == 2
    message = capsys.readouterr().err
    assert "teacher.representation.taps: got 'usr', allowed: " in message
    assert "Did you mean 'user'?" in message and not list(tmp_path.rglob("*.safetensors"))


def test_a_snapshot_of_a_teacher_without_autoencoder_is_refused(
    base: Path, run_of: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(base, tmp_path / "a", ASKED)
    snapshots = tmp_path / "a" / "out" / "teacher" / "0" / "snapshots"
    snapshots.mkdir(parents=True)
    for path in (run_of(None) / "teacher" / "0" / "snapshots").iterdir():
        (snapshots / path.name).write_bytes(path.read_bytes())
    assert main(["log", str(config)]) == 2
    message = capsys.readouterr().err
    assert (
        "day-0001.safetensors: channels.representation.decoder.0.bias: got nothing, allowed: (16,)" in message
    )
