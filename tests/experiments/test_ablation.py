"""The ablation, through the real command: peers, single surfaces, equal trials, scores, differences, test days."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.metrics import log_loss, roc_auc_score

import experiments.catalog  # noqa: F401  fills the registries
from distill.errors import ConfigErrors
from experiments.__main__ import main
from experiments.pipeline import environment
from experiments.studies.ablation import choose, differences, run
from experiments.studies.ablation.file import read_ablation
from tests.experiments import recompute
from tests.experiments.tiny_experiment import TASKS, VERTICALS, write_days, write_experiment

SEEDS = (0, 1)
SVG = "{http://www.w3.org/2000/svg}"
STUDY: dict[str, Any] = {
    "data": "tiny",
    "seeds": [0, 1],
    "tuning_seeds": [100],
    "set": {"teacher.options.dropout": 0.0},
    "variants": {
        "gem": {
            "set": {"teacher.options.dim": 8},
            "trials": [
                {"teacher.optimizer.learning_rate": 1e-5},
                {"teacher.optimizer.learning_rate": 0.01},
            ],
        },
        "din": {
            "peer": True,
            "set": {
                "teacher.architecture": "din",
                "teacher.options": {"dim": 4, "mlp": [8], "attention": [4], "history_length": 5},
            },
            "trials": [
                {"teacher.optimizer.learning_rate": 0.01},
                {"teacher.optimizer.learning_rate": 1e-5},
            ],
        },
        "no_layers": {"set": {"teacher.options.layers": 0}},
        "single_surface": {"per_surface": True},
    },
}


def write_study(folder: Path, experiment: Path, **changes: Any) -> Path:
    """`folder`/study.yaml; `a__b` replaces b below a, None takes it away."""
    content = json.loads(json.dumps(STUDY))
    content |= {"experiment": str(experiment), "output": str(folder / "runs")}
    content["table"] = str(folder / "gem_ablation.csv")
    for path, value in changes.items():
        *parents, last = path.split("__")
        inner = content
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "study.yaml"


@dataclass(frozen=True)
class Finished:
    """A finished study.

    Attributes:
        folder: holds study.yaml, tables and runs.
        data: folder of the data as it was written.
        printed: what the command wrote to standard output.
    """

    folder: Path
    data: Path
    printed: str

    def table(self, name: str) -> list[dict[str, str]]:
        with (self.folder / f"{name}.csv").open() as file:
            return list(csv.DictReader(file))

    @cached_property
    def rows(self) -> dict[tuple[str, ...], dict[str, str]]:
        """(variant, vertical, task, seed) to the row."""
        keys = ("variant", "vertical", "task", "seed")
        return {tuple(row[key] for key in keys): row for row in self.table("gem_ablation")}

    @cached_property
    def gains(self) -> dict[tuple[str, ...], dict[str, str]]:
        """(variant, against, vertical, task, measure) to the row."""
        keys = ("variant", "against", "vertical", "task", "measure")
        return {tuple(row[key] for key in keys): row for row in self.table("gem_ablation_differences")}

    def predictions(self, variant: str, seed: int) -> list[Path]:
        return sorted((self.folder / "runs/variants" / variant / "predictions").glob(f"*/{seed}.parquet"))

    def reports(self, variant: str, seed: int) -> list[dict[str, Any]]:
        folder = self.folder / "runs/variants" / variant / "checkpoints"
        return [json.loads(path.read_text()) for path in sorted(folder.glob(f"*/{seed}/report.json"))]

    def losses(self, variant: str, vertical: str, task: str) -> dict[str, float]:
        """L by scikit-learn, mean over seeds."""
        p = recompute.base_rate(self.data, range(1, 6), vertical, task)
        found: dict[str, list[float]] = {"ne": [], "auc": []}
        for seed in SEEDS:
            columns = recompute.read(self.predictions(variant, seed), "tune", vertical)
            label, logit = columns[f"label_{task}"], columns[f"logit_{task}"]
            found["ne"].append(log_loss(label, recompute.sigmoid(logit)) / recompute.entropy(p))
            found["auc"].append(1 - roc_auc_score(label, logit))
        return {kind: float(np.mean(values)) for kind, values in found.items()}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The study, run."""
    folder = tmp_path_factory.mktemp("ablation")
    data = write_days(folder / "data", rows=300)
    experiment = write_experiment(folder / "base", data, folder / "cache")
    study = write_study(folder / "study", experiment)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["study", "ablation", str(study)]) == 0
    return Finished(folder / "study", data, printed.getvalue())


@pytest.mark.parametrize("variant", STUDY["variants"])
@pytest.mark.parametrize("vertical", [*VERTICALS, "pooled"])
def test_rows_are_the_protocols_scores(done: Finished, variant: str, vertical: str) -> None:
    for task in TASKS:
        p = recompute.base_rate(done.data, range(1, 6), vertical, task)
        for seed in SEEDS:
            row = done.rows[variant, vertical, task, str(seed)]
            columns = recompute.read(done.predictions(variant, seed), "tune", vertical)
            expected = recompute.scores(columns, task, p)
            assert row["gauc"] == "" and expected.pop("gauc") is None
            del expected["positives"]
            assert {name: float(row[name]) for name in expected} == pytest.approx(expected, rel=2e-6)
            assert (row["data"], row["split"]) == ("tiny", "tune")


def test_a_table_row_for_everything_and_nothing_else(done: Finished) -> None:
    expected = {
        (variant, vertical, task, str(seed))
        for variant in STUDY["variants"]
        for vertical in (*VERTICALS, "pooled")
        for task in TASKS
        for seed in SEEDS
    }
    assert set(done.rows) == expected == set(done.rows)
    assert tuple(next(iter(done.rows.values()))) == run.COLUMNS


def test_cost_is_the_models_own_and_of_all_surfaces_for_pooled_rows(done: Finished) -> None:
    def params(reports: Iterable[dict[str, Any]]) -> int:
        return sum(report["dense_parameters"] + report["table_parameters"] for report in reports)

    for variant in STUDY["variants"]:
        row, reports = done.rows[variant, "pooled", "click", "1"], done.reports(variant, 1)
        assert len(reports) == (2 if variant == "single_surface" else 1)
        assert int(row["params"]) == params(reports)
        assert float(row["cpu_seconds"]) == pytest.approx(sum(r["cpu_seconds"] for r in reports), rel=1e-5)
        examples = [report["days"][-1]["examples_seen"] for report in reports]
        flops = np.average([report["flops_per_example"] for report in reports], weights=examples)
        assert float(row["flops_per_example"]) == pytest.approx(flops, rel=1e-5)
    one = int(done.rows["single_surface", "feed", "click", "1"]["params"])
    assert 2 * one == int(done.rows["single_surface", "pooled", "click", "1"]["params"])
    assert one == int(done.rows["gem", "feed", "click", "1"]["params"])


def test_models_of_one_surface_train_on_the_teachers_days_and_their_rows(done: Finished) -> None:
    for report, path in zip(
        done.reports("single_surface", 0), done.predictions("single_surface", 0), strict=True
    ):
        assert [day["day"] for day in report["days"]] == [1, 2, 3, 4]
        assert len(set(pq.read_table(path)["domain"].to_pylist())) == 1
        assert report["days"][-1]["examples_seen"] < 300 * 4 / 2
    (report,) = done.reports("gem", 0)
    assert report["days"][-1]["examples_seen"] == 300 * 4


def test_a_study_keeps_no_snapshots(done: Finished) -> None:
    assert not list(done.folder.rglob("day-*.safetensors"))


@pytest.mark.parametrize("against", ["din", "no_layers", "single_surface"])
def test_gains_are_differences_of_seed_means(done: Finished, against: str) -> None:
    for vertical in (*VERTICALS, "pooled"):
        for task in TASKS:
            mine, theirs = done.losses("gem", vertical, task), done.losses(against, vertical, task)
            for kind in ("ne", "auc"):
                row = done.gains["gem", against, vertical, task, kind]
                assert float(row["gain"]) == pytest.approx(theirs[kind] - mine[kind], abs=2e-6)
                assert float(row["low"]) < float(row["gain"]) < float(row["high"])
                assert row["seeds"] == "2"


def test_the_best_peer_is_named(done: Finished) -> None:
    best = done.gains["gem", "best_peer", "pooled", "click", "auc"]
    other = done.gains["gem", "din", "pooled", "click", "auc"]
    assert best["peer"] == "din" and (best["gain"], best["low"]) == (other["gain"], other["low"])
    assert tuple(best) == differences.COLUMNS


def test_the_better_trial_is_chosen_and_variants_inherit_it(done: Finished) -> None:
    trials = done.table("gem_ablation_trials")
    assert tuple(trials[0]) == choose.COLUMNS
    assert [(row["variant"], row["trial"]) for row in trials] == [
        *(("gem", "0"), ("gem", "1"), ("din", "0"), ("din", "1"))
    ]
    best = {}
    for name in ("gem", "din"):
        row = min((r for r in trials if r["variant"] == name), key=lambda r: float(r["macro_logloss"]))
        best[name] = json.loads(row["settings"])["teacher.optimizer.learning_rate"]
    assert best["gem"] == 0.01, "a learning rate of 0.00001 learns nothing in some fifty steps"
    for variant in STUDY["variants"]:
        content = yaml.safe_load((done.folder / "runs/variants" / variant / "config.yaml").read_text())
        model = content["teacher"] or content["students"][0]
        assert model["optimizer"]["learning_rate"] == best["din" if variant == "din" else "gem"]
        assert model["options"].get("dropout") == (None if variant == "din" else 0.0)


def test_macro_logloss_of_a_trial(done: Finished) -> None:
    row = done.table("gem_ablation_trials")[2]
    (path,) = (done.folder / "runs/trials/din-0/predictions").glob("*/100.parquet")
    losses = []
    for vertical in VERTICALS:
        columns = recompute.read([path], "tune", vertical)
        for task in TASKS:
            losses.append(log_loss(columns[f"label_{task}"], recompute.sigmoid(columns[f"logit_{task}"])))
    assert float(row["macro_logloss"]) == pytest.approx(np.mean(losses), abs=2e-6)
    assert json.loads(row["settings"])["teacher.optimizer.learning_rate"] == 0.01


def test_a_person_reads_scores_gains_and_bars(done: Finished) -> None:
    lines = done.printed.splitlines()
    assert lines[0] == "tiny: development scores (tune days), seeds 0, 1"
    assert "pooled, click" in " ".join(lines) and "AUC gain of gem by surface, order" in " ".join(lines)
    bars = [line for line in lines if line.startswith(("met ", "MISSED "))]
    assert sum("over din, the best tuned peer" in line for line in bars) == len(TASKS)
    for part in ("no_layers", "single_surface"):
        assert sum(line.startswith(f"{part}: ") for line in lines) == 1


def test_the_picture_has_a_mark_for_every_model_and_task(done: Finished) -> None:
    root = ElementTree.parse(done.folder / "gem_ablation_tiny.svg").getroot()
    assert len(root.findall(f".//{SVG}circle[@class='dot']")) == 3 * len(TASKS)
    texts = {element.text for element in root.iter(f"{SVG}text")}
    assert {"din", "no_layers", "single_surface", *TASKS} <= texts and "best_peer" not in texts
    assert done.printed.splitlines()[-1] == f"Picture: {done.folder / 'gem_ablation_tiny.svg'}"


def test_an_interrupted_study_says_so_and_can_go_on(
    done: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(choose, "train", interrupted)
    study = write_study(tmp_path, done.folder.parent / "base" / "tiny.yaml")
    assert main(["study", "ablation", str(study)]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("distill: interrupted. What is finished is kept in ")
    status = json.loads((tmp_path / "runs" / "status.json").read_text())
    assert (status["state"], status["step"]) == ("interrupted", "trials")
    assert not list(tmp_path.glob("*.csv"))


def test_what_is_done_is_not_done_again(done: Finished) -> None:
    before = {
        p: p.stat().st_mtime_ns for p in done.folder.rglob("*") if p.suffix in (".parquet", ".safetensors")
    }
    tables = {path: path.read_text() for path in done.folder.glob("*.csv")}
    assert before and len(tables) == 3
    assert main(["study", "ablation", str(done.folder / "study.yaml")]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {path: path.read_text() for path in tables} == tables


def test_one_lost_training_is_made_up_for(done: Finished) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.folder.rglob("*.parquet")}
    lost = done.predictions("gem", 1)[0]
    content = pq.read_table(lost)
    lost.unlink()
    assert main(["study", "ablation", str(done.folder / "study.yaml")]) == 0
    changed = {path for path, stamp in before.items() if path.stat().st_mtime_ns != stamp}
    assert changed == {lost} and pq.read_table(lost).equals(content)


def test_final_reads_the_test_days_and_leaves_a_trace(
    done: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environment, "TEST_READS", tmp_path / "reads.csv")
    variants = {"gem": {}, "din": STUDY["variants"]["din"] | {"trials": []}}
    study = write_study(tmp_path, done.folder.parent / "base" / "tiny.yaml", variants=variants, data="other")
    (tmp_path / "gem_ablation.csv").write_text((done.folder / "gem_ablation.csv").read_text())
    assert main(["study", "ablation", str(study), "--final", "why not", "--set", "seeds=[5]"]) == 0
    with (tmp_path / "reads.csv").open() as file:
        (read,) = csv.DictReader(file)
    assert read["reason"] == "why not" and len(read["config_hash"]) == 64
    again = Finished(tmp_path, done.data, "")
    splits = {(row["data"], row["split"]) for row in again.table("gem_ablation")}
    assert splits == {("tiny", "tune"), ("other", "tune"), ("other", "test")}
    assert {row["split"] for row in again.table("gem_ablation_differences")} == {"tune", "test"}
    row = again.rows["gem", "pooled", "click", "0"]
    columns = recompute.read(again.predictions("gem", 0), "test", "pooled")
    assert float(row["auc"]) == pytest.approx(
        roc_auc_score(columns["label_click"], columns["logit_click"]), rel=1e-6
    )
    assert "final scores (test days)" in capsys.readouterr().out
    assert not (tmp_path / "gem_ablation_trials.csv").exists()


def refused(done: Finished, tmp_path: Path, **changes: Any) -> list[str]:
    """Problems of a file."""
    study = write_study(tmp_path, done.folder.parent / "base" / "tiny.yaml", **changes)
    with pytest.raises(ConfigErrors) as caught:
        read_ablation(study)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": {}}, "variant: got an unknown key; allowed: experiment,"),
        (
            {"full": "gme"},
            "full: got 'gme'; allowed: gem, din, no_layers, single_surface. Did you mean 'gem'?",
        ),
        ({"variants": {}}, "full: got 'gem'; allowed: no name, since there is no variant."),
        ({"variants__gem__peer": True}, "variants.gem: got a peer or per_surface; allowed: neither"),
        ({"variants__din__trials": []}, "variants: got trials: 2 of gem, 0 of din; allowed: equally many"),
        ({"variants__no_layers__trials": [{}]}, "variants.no_layers.trials: got 1 trial; allowed: none"),
        (
            {"variants__no_layers__set": {"schedule.lag": 2}},
            "the key schedule.lag; allowed: keys of the teacher",
        ),
        ({"variants__din__trials": [{"seeds": [3]}, {}]}, "the key seeds; allowed: keys of the teacher"),
        (
            {"variants__no_layers__set": {"teacher.name": "x"}},
            "the key teacher.name; allowed: keys of the teacher",
        ),
        ({"variants__a b": {}}, "got 'a b'; allowed: letters, digits"),
        ({"tuning_seeds": [1, 100]}, "tuning_seeds: got [1], which are among `seeds` too"),
        ({"seeds": [0, 0]}, "seeds[1]: got 0 a second time"),
        ({"seeds": [-1]}, "seeds[0]: got -1; allowed: 0 or more"),
        ({"data": "a/b"}, "data: got 'a/b'; allowed: letters, digits"),
        ({"variants__din__peer": "yes"}, "variants.din.peer: got 'yes'; allowed: true or false"),
    ],
)
def test_bad_files_are_refused(done: Finished, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (problem,) = refused(done, tmp_path, **changes)
    assert message in problem


def test_all_mistakes_are_told_at_once(done: Finished, tmp_path: Path) -> None:
    assert len(refused(done, tmp_path, seeds=[], variant=1, data="a/b", variants__din__trials=[])) == 4


def test_settings_that_no_model_has_name_variant_and_key(
    done: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = done.folder.parent / "base" / "tiny.yaml"
    changes = {"variants__no_layers__set": {"teacher.options.layer": 0}, "variants__din__set": {}}
    assert main(["study", "ablation", str(write_study(tmp_path, experiment, **changes))]) == 2
    said = capsys.readouterr().err
    assert "no_layers: --set teacher.options.layer=0: teacher.options.layer: got an unknown key" in said
    assert "Did you mean 'layers'?" in said
    assert not (tmp_path / "runs").exists()
