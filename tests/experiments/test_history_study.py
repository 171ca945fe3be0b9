"""The history study: its costs one by one, and the real command on tiny histories."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from sklearn.metrics import log_loss, roc_auc_score

import experiments.catalog  # noqa: F401  fills the registries
from distill.errors import ConfigErrors
from experiments.__main__ import main
from experiments.studies import green
from experiments.studies.history import timing
from experiments.studies.history.cost import Request, Result, measure
from experiments.studies.history.file import History, Reader, read_history
from experiments.studies.history.run import COLUMNS, GAIN_COLUMNS, Remembered
from experiments.studies.history.show import verdicts
from experiments.studies.history.timing import Cost, summarised
from tests.experiments import recompute
from tests.experiments.tiny_experiment import TASKS, write_days, write_experiment

SVG = "{http://www.w3.org/2000/svg}"
APART, TESTS_PASS = timing._apart, green.tests_pass
TRAINED = [("short", 2), ("short", 6), ("pooled", 6)]


def write_study(folder: Path, base: Path, **changes: Any) -> Path:
    """`folder`/study.yaml; None takes a key away."""
    content: dict[str, Any] = {
        "experiment": str(base / "tiny.yaml"),
        "output": str(folder / "runs"),
        "table": str(folder / "history.csv"),
        "data": "tiny",
        "seeds": [0, 1],
        "batch_size": 4,
        "rounds": 2,
        "steps": 2,
        "variants": {
            "short": {"events": [2, 6]},
            "pooled": {"set": {"teacher.options.layers": 0}, "events": [2, 6], "trained": [6]},
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    content = {key: value for key, value in (content | changes).items() if value is not None}
    (folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "study.yaml"


@dataclass(frozen=True)
class Finished:
    """A finished study.

    Attributes:
        folder: holds study.yaml, tables, picture and runs.
        data: folder of the data as it was written.
        printed: what the command wrote to standard output.
    """

    folder: Path
    data: Path
    printed: str

    def table(self, name: str) -> list[dict[str, str]]:
        with (self.folder / f"{name}.csv").open() as file:
            return list(csv.DictReader(file))

    def losses(self, variant: str, events: int, task: str, seed: int) -> dict[str, float]:
        """NE and 1 - AUC by scikit-learn."""
        (path,) = (self.folder / "runs" / f"{variant}-{events}").glob(f"predictions/*/{seed}.parquet")
        columns = recompute.read([path], "tune", "pooled")
        label, logit = columns[f"label_{task}"], columns[f"logit_{task}"]
        p = recompute.base_rate(self.data, range(1, 6), "pooled", task)
        ne = log_loss(label, recompute.sigmoid(logit)) / recompute.entropy(p)
        return {"ne": float(ne), "auc": float(1 - roc_auc_score(label, logit))}


@pytest.fixture(scope="module")
def green_and_here() -> Iterator[None]:
    """Tests pass unasked, and costs are measured in this process: a process each takes seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(green, "tests_pass", lambda: True)
        patch.setattr(timing, "_apart", measure)
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, green_and_here: None) -> Finished:
    folder = tmp_path_factory.mktemp("history")
    data = write_days(folder / "data", rows=200)
    write_experiment(folder / "base", data, folder / "cache")
    study = write_study(folder / "study", folder / "base")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["study", "history", str(study)]) == 0
    return Finished(folder / "study", data, printed.getvalue())


def test_rows_hold_pooled_scores_and_costs(done: Finished) -> None:
    rows = done.table("history")
    assert tuple(rows[0]) == COLUMNS
    trained = [row for row in rows if row["task"]]
    assert {(r["variant"], int(r["events"]), r["task"], r["seed"]) for r in trained} == {
        (variant, events, task, seed) for variant, events in TRAINED for task in TASKS for seed in "01"
    }
    for row in trained:
        losses = done.losses(row["variant"], int(row["events"]), row["task"], int(row["seed"]))
        assert float(row["ne"]) == pytest.approx(losses["ne"], rel=1e-6)
        assert float(row["auc"]) == pytest.approx(1 - losses["auc"], rel=1e-6)


def test_costs_are_medians_of_the_kept_measurements(done: Finished) -> None:
    rows = done.table("history")
    assert len(list((done.folder / "runs" / "costs").iterdir())) == 4 * 2
    for variant in ("short", "pooled"):
        ms = {}
        for events in (2, 6):
            files = sorted((done.folder / "runs" / "costs").glob(f"{variant}-{events}-*.json"))
            results = [json.loads(path.read_text())["result"] for path in files]
            steps = [step for result in results for step in result["ms"]]
            ms[events] = np.median(steps)
            mine = [r for r in rows if (r["variant"], r["events"]) == (variant, str(events))]
            assert len(steps) == 2 * 2 and mine
            for row in mine:
                assert float(row["ms_per_batch"]) == pytest.approx(ms[events], rel=1e-6)
                assert float(row["peak_mib"]) == pytest.approx(max(r["peak_mib"] for r in results), rel=1e-6)
                if events == 2:
                    assert row["ms_per_1000_events"] == ""
                else:
                    assert float(row["ms_per_1000_events"]) == pytest.approx(250 * (ms[6] - ms[2]), rel=1e-5)


def test_what_is_not_trained_has_a_cost_and_no_score(done: Finished) -> None:
    (row,) = [r for r in done.table("history") if (r["variant"], r["events"]) == ("pooled", "2")]
    assert float(row["ms_per_batch"]) > 0 and (row["task"], row["seed"], row["ne"], row["auc"]) == (
        "",
        "",
        "",
        "",
    )
    assert not (done.folder / "runs" / "pooled-2").exists()


def test_gains_over_the_shortest_history_and_over_the_first_variant(done: Finished) -> None:
    rows = done.table("history_differences")
    assert tuple(rows[0]) == GAIN_COLUMNS
    pairs = {(r["variant"], r["events"], r["against"], r["against_events"]) for r in rows}
    assert pairs == {("short", "6", "short", "2"), ("pooled", "6", "short", "6")}
    for row in rows:
        mine = [done.losses(row["variant"], 6, row["task"], seed)[row["measure"]] for seed in (0, 1)]
        other = [
            done.losses(row["against"], int(row["against_events"]), row["task"], seed)[row["measure"]]
            for seed in (0, 1)
        ]
        assert float(row["gain"]) == pytest.approx(np.mean(other) - np.mean(mine), abs=1e-6)
        assert float(row["low"]) < float(row["gain"]) < float(row["high"])


def test_every_model_reads_its_number_of_events(done: Finished) -> None:
    for variant, events in TRAINED:
        config = yaml.safe_load((done.folder / "runs" / f"{variant}-{events}" / "config.yaml").read_text())
        options = config["teacher"]["options"]
        assert (options["history_length"], options["layers"]) == (events, 0 if variant == "pooled" else 1)


def test_the_picture_shows_costs_and_a_panel_per_task(done: Finished) -> None:
    root = ElementTree.parse(done.folder / "history_tiny.svg").getroot()
    assert len(root.findall(f".//{SVG}circle[@class='dot']")) == 4 + len(TASKS) * len(TRAINED)
    texts = {element.text for element in root.iter(f"{SVG}text")}
    assert {"short", "pooled", "processor time of a training step, ms", "order: NE, pooled"} <= texts


def test_a_person_reads_costs_qualities_and_bars(done: Finished) -> None:
    lines = done.printed.splitlines()
    assert lines[0] == "tiny: batches of 4, one thread; tune days, pooled rows, seeds 0, 1"
    assert any(line.startswith("met    short: a batch of 4 with 6 events takes") for line in lines)
    assert lines[-1].startswith("Picture: ")


def test_what_is_done_is_not_done_again(done: Finished) -> None:
    def stamps() -> dict[Path, int]:
        kept = [*(done.folder / "runs").rglob("*.parquet"), *(done.folder / "runs" / "costs").iterdir()]
        return {path: path.stat().st_mtime_ns for path in kept}

    before, table = stamps(), (done.folder / "history.csv").read_text()
    assert main(["study", "history", str(done.folder / "study.yaml")]) == 0
    assert stamps() == before and (done.folder / "history.csv").read_text() == table


def test_nothing_is_measured_while_tests_fail(
    done: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(green, "tests_pass", lambda: False)
    study = write_study(tmp_path, done.folder.parent / "base")
    assert main(["study", "history", str(study)]) == 1
    said = capsys.readouterr()
    assert "the tests of what is measured fail: nothing is measured" in said.err and said.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


@pytest.mark.parametrize(("test", "passes"), [("assert True", True), ("assert False", False)])
def test_green_is_what_pytest_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, test: str, passes: bool
) -> None:
    (tmp_path / "test_one.py").write_text(f"def test_one():\n    {test}\n")
    monkeypatch.setattr(green, "TESTED", (str(tmp_path / "test_one.py"),))
    assert TESTS_PASS() is passes


def request(done: Finished, **changes: Any) -> Request:
    (schema,) = (done.folder.parent / "cache").glob("*/schema.yaml")
    base = Request(str(done.folder.parent / "base" / "tiny.yaml"), [], str(schema), 6, 4, 2)
    return replace(base, **changes)


def test_a_measurement_in_a_process_of_its_own(done: Finished) -> None:
    """Memory of this process does not count: it was larger than the other one's ever is."""
    ballast = np.ones(2**27)
    found = APART(request(done, events=300, batch_size=64))
    here = measure(request(done))
    assert len(found.ms) == 2 and all(ms > 0 for ms in found.ms)
    assert 50 < found.peak_mib < ballast.nbytes / 2**20 < here.peak_mib


@pytest.mark.parametrize(
    ("ends", "why"),
    [
        ("echo no file nowhere.yaml >&2; exit 1", "no file nowhere.yaml"),
        ("kill -9 $$", "killed, probably for memory"),
    ],
)
def test_a_measurement_that_fails_says_why(
    done: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str, why: str
) -> None:
    """Its process ends so, without the imports of the real one."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{ends}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(RuntimeError, match=f"^6 events: the measurement failed: {why}$"):
        APART(request(done))


def test_another_request_is_measured_again(
    done: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Request] = []

    def answer(request: Request) -> Result:
        asked.append(request)
        return Result([float(len(asked))], 10.0)

    monkeypatch.setattr(timing, "_apart", answer)
    path, first, second = tmp_path / "a.json", request(done), request(done, steps=3)
    answers = [timing._kept(of, path).ms for of in (first, first, second, second)]
    assert answers == [[1.0], [1.0], [2.0], [2.0]] and asked == [first, second]
    monkeypatch.setattr(timing, "git_commit", lambda: "another")
    assert timing._kept(second, path).ms == [3.0]


def test_added_cost_is_per_1000_events_since_the_next_shorter_history() -> None:
    ms = {50: [9.0, 10.0, 40.0], 200: [12.0, 13.0, 14.0], 1000: [29.0, 29.0, 29.0]}
    results = {("a", events): [Result(steps, events), Result(steps, 1.0)] for events, steps in ms.items()}
    found = summarised(results | {("b", 200): [Result([7.0], 3.0)]})
    assert [found["a", n].ms_per_batch for n in ms] == [10.0, 13.0, 29.0]
    assert found["a", 50].ms_per_1000_events is None and found["b", 200].ms_per_1000_events is None
    assert (found["a", 200].ms_per_1000_events, found["a", 1000].ms_per_1000_events) == (20.0, 20.0)
    assert [found["a", n].peak_mib for n in ms] == [50.0, 200.0, 1000.0]


def remembered(costs: dict[int, Cost]) -> Remembered:
    reader = Reader(events=list(costs), trained=[])
    study = History(variants={"a": reader})
    return Remembered(study, {("a", events): cost for events, cost in costs.items()}, [], [], Path("x.svg"))


@pytest.mark.parametrize(
    ("late", "peak", "words"),
    [(30.0, 8000.0, ["met", "met"]), (31.0, 8000.0, ["MISSED", "met"]), (30.0, 8192.0, ["met", "MISSED"])],
)
def test_bars(late: float, peak: float, words: list[str]) -> None:
    costs = {50: Cost(1.0, None, 10.0), 200: Cost(4.0, 20.0, 20.0), 4000: Cost(9.0, late, peak)}
    lines = list(verdicts(remembered(costs)))
    assert [line.split()[0] for line in lines] == words
    assert f"{late / 20:.2f} times as much at 4,000 as at 200" in lines[0]


def test_two_lengths_say_nothing_of_steepness() -> None:
    costs = {50: Cost(1.0, None, 10.0), 200: Cost(4.0, 20.0, 20.0)}
    (line,) = verdicts(remembered(costs))
    assert "GiB" in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": {}}, "variant: got an unknown key; allowed: experiment,"),
        ({"variants": {}}, "variants: got nothing; allowed: at least one"),
        ({"rounds": 0}, "rounds: got 0; allowed: at least 1"),
        (
            {"variants": {"a": {"events": [5, 5]}}},
            "variants.a.events: got [5, 5]; allowed: numbers of events from 1",
        ),
        (
            {"variants": {"a": {"events": []}}},
            "variants.a.events: got []; allowed: numbers of events from 1, rising",
        ),
        (
            {"variants": {"a": {"events": [0]}}},
            "variants.a.events: got [0]; allowed: numbers of events from 1",
        ),
        ({"variants": {"a": {"events": [5], "trained": [6]}}}, "variants.a.trained[0]: got '6'; allowed: 5"),
        (
            {"variants": {"a": {"events": [5], "set": {"seeds": [1]}}}},
            "the key seeds; allowed: keys of the teacher",
        ),
        (
            {"variants": {"a": {"events": [5], "set": {"teacher.options.history_length": 5}}}},
            "got the key; allowed: other keys",
        ),
    ],
)
def test_bad_files_are_refused(done: Finished, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        read_history(write_study(tmp_path, done.folder.parent / "base", **changes))
    (problem,) = [str(problem) for problem in caught.value.problems]
    assert message in problem
