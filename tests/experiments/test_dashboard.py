"""Dashboards: every panel asks for what runs really log; offline it is a file, with a key it is saved once."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.cells import read_cells
from distill.config import ExperimentConfig, WandbConfig
from experiments.__main__ import main
from experiments.tracking import RUNS, open_tracker
from tests.experiments.offline_runs import FakeExperiment, Records, header, history, inspect, summary
from tests.experiments.synthetic_run import VERTICALS, write_synthetic_run
from tests.experiments.wandb_server import KEY, wandb_server

PROJECT = Path(__file__).parents[2]
DEMO = str(PROJECT / "experiments" / "demo.yaml")
ENTITY, W_AND_B = "team", "shared"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two students, recorded offline."""
    folder = write_synthetic_run(
        tmp_path_factory.mktemp("dashboard") / "run",
        noise={"teacher": 0.2, "none": 0.75, "ah": 0.5},
        models={"deepfm": VERTICALS, "dlrm": ("feed",)},
        seeds=(0,),
        rows_per_day=120,
    )
    config = ExperimentConfig(name="synthetic", wandb=WandbConfig(project="test"))
    tracker = open_tracker(FakeExperiment(folder, config), (folder / "config.yaml").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", KEY)
        for cell in read_cells(folder / "cells.csv"):
            tracker.finish(cell)
    return folder


@pytest.fixture(scope="module")
def pages(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    path = tmp_path_factory.mktemp("definition") / "pages.json"
    assert main(["dashboard", str(run), "--entity", ENTITY, "--project", W_AND_B, "--save", str(path)]) == 0
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def recorded(run: Path) -> dict[str, Records]:
    """Name of every offline run to its records."""
    with ThreadPoolExecutor(2) as readers:
        runs = list(readers.map(inspect, (run / "wandb").glob("offline-run-*")))
    return {header(records)["display_name"]: records for records in runs}


@pytest.fixture(scope="module")
def logged(recorded: dict[str, Records]) -> dict[str, set[str]]:
    """Name of every run to the keys of its curves and, after `summary:`, of its summary; a table is several keys."""
    found = {}
    for name, records in recorded.items():
        curves = {key for point in history(records) for key in point}
        found[name] = curves | {f"summary:{key.removesuffix('._type')}" for key in summary(records)}
    return found


def sections(page: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    bank = page["spec"]["section"]["panelBankConfig"]
    return {section["name"]: section["panels"] for section in bank["sections"]}


def keys_of(panel: dict[str, Any]) -> list[str]:
    """Keys that a panel of the definition reads, summary keys after `summary:`."""
    config = panel["config"]
    match panel["viewType"]:
        case "Run History Line Plot":
            return [config["xAxis"], *config["metrics"]]
        case "Scatter Plot":
            return [config["xAxis"], config["yAxis"]]
        case "Bar Chart":
            return [key.replace("summary_metrics.", "summary:") for key in config["metrics"]]
        case "Weave":
            return [f"summary:{config['panel2Config']['exp']['fromOp']['inputs']['key']['val']}"]
    raise AssertionError(panel["viewType"])


def all_keys(page: dict[str, Any]) -> Iterator[str]:
    for panels in sections(page).values():
        for panel in panels:
            yield from keys_of(panel)
    (runs,) = page["spec"]["section"]["runSets"]
    yield from (name for name in runs["runFeed"]["columnOrder"] if name != "run:displayName")


def test_a_page_of_the_family_and_one_per_student(pages: dict[str, dict[str, Any]]) -> None:
    assert list(pages) == ["family", "student deepfm", "student dlrm"]
    assert list(sections(pages["family"])) == ["Teacher", "Students", "Transfer", "Cost", "Tables"]
    assert list(sections(pages["student dlrm"])) == ["Students", "Transfer", "Cost", "Tables"]
    assert {(page["entity"], page["project"]) for page in pages.values()} == {(ENTITY, W_AND_B)}


@pytest.mark.parametrize("page", ["family", "student deepfm", "student dlrm"])
def test_every_key_is_logged_by_a_run(
    page: str, pages: dict[str, dict[str, Any]], logged: dict[str, set[str]]
) -> None:
    asked = set(all_keys(pages[page]))
    assert len(asked) > 20
    assert asked - set().union(*logged.values()) == set()


def test_teacher_panels_show_the_teacher_alone(
    pages: dict[str, dict[str, Any]], logged: dict[str, set[str]]
) -> None:
    for panel in sections(pages["family"])["Teacher"]:
        (key,) = panel["config"]["metrics"]
        assert [name for name, known in logged.items() if key in known] == ["gem all none"], key


def test_curves_of_ne_auc_and_calibration_by_day(pages: dict[str, dict[str, Any]]) -> None:
    panels = sections(pages["student dlrm"])["Students"]
    assert [panel["config"]["metrics"] for panel in panels] == [
        [f"feed/{task}/{measure}"]
        for task in ("click", "conversion")
        for measure in ("ne", "auc", "calibration")
    ]
    assert {panel["config"]["xAxis"] for panel in panels} == {"day"}


def test_students_transfer_is_grouped_by_channel(pages: dict[str, dict[str, Any]]) -> None:
    bars = sections(pages["student deepfm"])["Transfer"]
    assert {bar["config"]["groupBy"] for bar in bars} == {"cell.value.channel"}
    places = {bar["config"]["metrics"][0].split("/")[2] for bar in bars}
    assert places == {*VERTICALS, "macro"}


def test_bars_of_several_students_are_not_averaged(pages: dict[str, dict[str, Any]]) -> None:
    grouped = {
        bar["config"]["metrics"][0].split("/")[2]: "groupBy" in bar["config"]
        for bar in sections(pages["family"])["Transfer"]
    }
    assert grouped == {"feed": False, "reels": True, "stories": True}


def test_the_teacher_is_pinned_as_reference(run: Path, pages: dict[str, dict[str, Any]]) -> None:
    runs = json.loads((run / RUNS).read_text()).values()
    (teacher,) = [known["id"] for known in runs if known["name"] == "gem all none"]
    for page in pages.values():
        (shown,) = page["spec"]["section"]["runSets"]
        pinned = base64.b64decode(shown["baselineRunId"]).decode()
        assert pinned == f"Run:v1:{teacher}:{W_AND_B}:{ENTITY}"
        assert shown["pinnedRunIds"] == [shown["baselineRunId"]]


def test_a_students_page_has_its_runs_and_its_teachers(
    recorded: dict[str, Records], pages: dict[str, dict[str, Any]]
) -> None:
    (shown,) = pages["student dlrm"]["spec"]["section"]["runSets"]
    group, tags = shown["filters"]["filters"]
    assert (group["key"]["name"], group["value"]) == ("group", "synthetic")
    names = [name for name, records in recorded.items() if set(header(records)["tags"]) & set(tags["value"])]
    assert sorted(names) == ["dlrm feed ah", "dlrm feed none", "gem all none"]


def test_the_same_run_gives_the_same_definition(
    run: Path, pages: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dashboard", str(run), "--entity", ENTITY, "--project", W_AND_B, "--print"]) == 0
    assert json.loads(capsys.readouterr().out) == pages


def test_an_experiment_that_has_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", DEMO, "--set", f"output={tmp_path}/out", "--print"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == [
        "family",
        *(f"student {n}" for n in ("deepfm", "feed_dlrm", "explore_dcn", "stories_din")),
    ]
    (runs,) = found["family"]["spec"]["section"]["runSets"]
    assert found["family"]["project"] == "gem-distill" and "baselineRunId" not in runs


def test_domain_teachers_are_on_their_students_pages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = PROJECT / "experiments" / "transfer_simulator.yaml"
    assert main(["dashboard", str(path), "--set", f"output={tmp_path}/out", "--print"]) == 0
    found = json.loads(capsys.readouterr().out)
    taught = {
        f"domain_teacher:{domain['name']}" for domain in yaml.safe_load(path.read_text())["domain_teachers"]
    }
    assert taught
    for page in [name for name in found if name != "family"]:
        (runs,) = found[page]["spec"]["section"]["runSets"]
        assert taught < set(runs["filters"]["filters"][1]["value"])


def test_without_the_extra_it_says_what_to_install(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("experiments.dashboard.views.find_spec", lambda name: None)
    assert main(["dashboard", str(run), "--print"]) == 2
    assert "Install the extra: pip install 'gem-distill[dashboard]'" in capsys.readouterr().err


def test_bad_input(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("name: x\n")
    for arguments, message in (
        (
            [str(tmp_path), "--print"],
            "got a run that is not scored, allowed: a scored run, or the experiment's YAML",
        ),
        (["nowhere.yaml", "--print"], "nowhere.yaml: got no such file or folder"),
        ([str(run), "--set", "seeds=[1]"], "--set: got a run folder beside it"),
        ([str(run), "--print", "--save", "x.json"], "not allowed with argument --print"),
    ):
        assert main(["dashboard", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_offline_it_says_what_to_do(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["dashboard", str(run)]) == 2
    assert "WANDB_MODE: got offline, allowed: online, or unset" in capsys.readouterr().err


def in_a_process(
    home: Path, code: str, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Code with `main` in a process of its own, without an account but the one in the variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    return subprocess.run(
        [sys.executable, "-c", f"import sys; from experiments.__main__ import main; {code}", *arguments],
        cwd=PROJECT,
        env={**kept, "HOME": str(home), "NETRC": str(home / "none"), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_without_a_key_it_says_what_to_do(tmp_path: Path, run: Path) -> None:
    done = in_a_process(tmp_path, "sys.exit(main(['dashboard', sys.argv[1]]))", str(run))
    assert done.returncode == 2
    assert "Allowed: an account's key (`wandb login`, or WANDB_API_KEY)" in done.stderr
    assert "--save FILE.json" in done.stderr and "Traceback" not in done.stderr


def test_saving_again_replaces_and_the_key_stays_where_it_was(
    tmp_path: Path, run: Path, pages: dict[str, dict[str, Any]]
) -> None:
    code = "print([main(['dashboard', sys.argv[1], '--project', name]) for name in sys.argv[2:]])"
    with wandb_server() as server:
        server.refused["closed"] = f"no write access for {KEY}"
        account = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        done = in_a_process(tmp_path, code, str(run), W_AND_B, W_AND_B, "closed", **account)
    *told, codes = done.stdout.splitlines()
    assert codes == "[0, 0, 2]" and "closed/family: W&B answered: " in done.stderr
    assert told[: len(pages)] == told[len(pages) :]
    assert told[0].startswith(f"family: {server.url}/{ENTITY}/{W_AND_B}?nw=")
    news, olds = server.saved[: len(pages)], server.saved[len(pages) :]
    assert [json.loads(view["spec"]) for view in news] == [page["spec"] for page in pages.values()]
    assert [(view["name"], view.get("id")) for view in olds] == [
        (view["name"], f"view-{view['displayName']}") for view in news
    ]
    assert KEY not in done.stdout + done.stderr
    files = [path for folder in (run, tmp_path) for path in folder.rglob("*") if path.is_file()]
    assert files and not [path for path in files if KEY.encode() in path.read_bytes()]
