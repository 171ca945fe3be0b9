"""The command line: verbs, exit codes, messages without tracebacks, no slow imports."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.errors import DataError
from distill.load_config import LoadedConfig
from distill.progress import NoProgress, PlainProgress
from distill.registry import SOURCES, Entry
from distill.sources.config import SimulatorConfig
from experiments.__main__ import main
from experiments.cli import VERBS
from tests.distill.prepared_data import write_content, write_small
from tests.experiments.synthetic_run import write_synthetic_run

PROJECT = Path(__file__).parents[2]
DEMO = str(PROJECT / "experiments" / "demo.yaml")


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own."""
    line = [sys.executable, "-m", "experiments", *arguments]
    return subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, timeout=60, **options)


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands for the pipeline and the report; collects what the pipeline is called with."""
    calls: list[dict[str, Any]] = []

    def run(loaded: LoadedConfig, **arguments: Any) -> Path:
        calls.append({"config": loaded.config, **arguments})
        return Path(loaded.config.output)

    def write_report(folder: Path) -> Path:
        calls.append({"report": folder})
        return folder / "report.html"

    stand_in(monkeypatch, "experiments.pipeline.run", run=run)
    stand_in(monkeypatch, "experiments.report", write_report=write_report)
    stand_in(monkeypatch, "experiments.closing", closing_lines=lambda folder, report: [f"Report: {report}"])
    monkeypatch.setattr("distill.results.read_results", lambda path: {"rows": []})
    return calls


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    """Put a module of that name with these contents in the place of the real one."""
    module = ModuleType(name)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)


def raising(error: BaseException) -> Any:
    """A pipeline that fails."""

    def run(*arguments: Any, **named: Any) -> None:
        raise error

    return run


def test_help_names_every_verb_with_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "doctor Look at the installation and the machine, and say what to do about each problem" in printed
    assert all(f" {verb} " in printed for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: distill {verb}")


def test_help_on_validate_is_the_config_documented(capsys: pytest.CaptureFixture[str]) -> None:
    main(["validate", "--help"])
    assert (
        "      learning_rate (a finite number; 0.001): of the dense parameters (Adam)."
        in capsys.readouterr().out
    )


def test_version() -> None:
    done = command("--version")
    assert done.returncode == 0 and re.fullmatch(r"gem-distill \d+\.\d+\.\d+\n", done.stdout)


SLOW = ("torch", "torchrec", "lightning", "wandb", "fbgemm_gpu", "rich", "matplotlib")


@pytest.mark.parametrize("arguments", [["--help"], ["validate", DEMO], ["ls", "students"], ["ls", "kernels"]])
def test_what_should_be_quick_imports_nothing_slow(arguments: list[str]) -> None:
    code = f"import sys; from experiments.__main__ import main; code = main({arguments!r}); "
    code += f"print([name for name in {SLOW!r} if name in sys.modules], code)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.splitlines()[-1] == "[] 0", done.stderr
    # Processor time, since the wall clock belongs to whatever else runs; 0.2 to 0.4 s when this was written.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "the following arguments are required: VERB"),
        (["rn"], 2, "invalid choice: 'rn'"),
        (["validate"], 2, "the following arguments are required: FILE"),
        (["validate", "nowhere.yaml"], 2, "nowhere.yaml: file: got no such file; allowed: a YAML file."),
        (["validate", DEMO, "--set", "tacher=1"], 2, "Did you mean 'teacher'?"),
        (
            ["validate", "--student", DEMO, "--set", "a=1"],
            2,
            "got --set or --resolved; allowed: --student alone.",
        ),
        (["run", DEMO, "--final"], 2, "argument --final: expected one argument"),
        (["run", DEMO, "--final", " "], 2, "argument --final: got an empty text, allowed: why the test days"),
        (["run", "nowhere.yaml"], 2, "no such file"),
        (["ls", "student"], 2, "invalid choice: 'student'"),
        (
            ["ls", "students", "depfm"],
            2,
            "students: got 'depfm', allowed: dcn_v2, deepfm, din, dlrm, gem. Did you mean",
        ),
        (
            ["score", "nowhere", "x"],
            2,
            "nowhere: got no such folder, allowed: a folder that `distill export` wrote",
        ),
        (
            ["dashboard", "nowhere"],
            2,
            "nowhere: got no such file or folder, allowed: a run folder, or an experiment",
        ),
        (["compare", "nowhere"], 2, "nowhere: got no such folder, allowed: a run folder"),
        (["report", "nowhere"], 2, "nowhere: got no such folder"),
        (["data", "describe", "nowhere"], 2, "nowhere: "),
        (["data", "simulate", str(PROJECT)], 2, "which is there already; allowed: a new folder"),
        (
            ["data", "simulate", "new", "--set", "dayz=2"],
            2,
            "--set dayz=2: dayz: got an unknown key; allowed: ",
        ),
    ],
)
def test_bad_input(arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert message in printed.err and "Traceback" not in printed.err
    assert printed.out == ""


def test_exit_codes_of_the_real_command(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: !!python/name:os.system x\n")
    done = command("run", str(tmp_path / "bad.yaml"))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        f"distill: 1 problem\n  {tmp_path}/bad.yaml:1: YAML: "
        "got the tag tag:yaml.org,2002:python/name:os.system; allowed: plain values without tags.\n"
    )
    assert command("validate", DEMO).returncode == 0
    assert command("nothing").returncode == 2


def test_run_gives_the_pipeline_what_was_asked(
    pipeline: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["run", DEMO, "--set", "seeds=[7]", "--set", "output=runs/x", "--final", " for the paper "]) == 0
    )
    call, report = pipeline
    assert call["config"].seeds == [7]
    assert call["final"] == "for the paper"
    assert call["steps"] == ("teacher", "log", "student", "score")
    assert isinstance(call["progress"], PlainProgress)
    assert report == {"report": Path("runs/x")}
    assert capsys.readouterr().out.splitlines()[-1] == "Report: runs/x/report.html"


@pytest.mark.parametrize("verb", ["run", "teacher", "log", "student"])
def test_quiet_shows_no_progress(verb: str, pipeline: list[dict[str, Any]]) -> None:
    assert main([verb, DEMO, "--quiet"]) == 0
    assert isinstance(pipeline[0]["progress"], NoProgress)


@pytest.mark.parametrize("step", ["teacher", "log", "student"])
def test_a_step_alone(step: str, pipeline: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([step, DEMO]) == 0
    (call,) = pipeline
    assert call["steps"] == (step,) and call["final"] is None
    assert capsys.readouterr().out == "Run folder: runs/demo\n"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 1, "distill: interrupted\n"),
        (RuntimeError("no luck"), 1, "distill: RuntimeError: no luck (--debug shows where)\n"),
        (DataError("day 3 is missing"), 2, "distill: day 3 is missing\n"),
    ],
)
def test_a_run_that_fails(
    error: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stand_in(monkeypatch, "experiments.pipeline.run", run=raising(error))
    assert main(["run", DEMO]) == code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("arguments", [["--debug", "run", DEMO], ["run", DEMO, "--debug"]])
def test_debug_shows_the_traceback(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, "experiments.pipeline.run", run=raising(RuntimeError("no luck")))
    assert main(arguments) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback") and printed.endswith("distill: RuntimeError: no luck\n")


def test_a_reader_that_leaves_early() -> None:
    line = f"{sys.executable} -m experiments ls sources | head -n 1"
    done = subprocess.run(line, shell=True, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("kuairand: ") and done.stderr == ""


def test_validate_tells_the_size(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["validate", DEMO, "--set", "students.stories_din.channels=[none]", "--set", "seeds=[5]"]
    assert main(arguments) == 0
    assert ": ok, teacher gem, 4 students in 16 cells, 1 seed, config " in capsys.readouterr().out


def test_validate_collects_the_problems_of_all_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("- 1\n")
    assert main(["validate", str(tmp_path / "a.yaml"), DEMO, str(tmp_path / "b.yaml")]) == 2
    printed = capsys.readouterr()
    assert (
        printed.err.startswith("distill: 2 problems\n")
        and "a.yaml: " in printed.err
        and "b.yaml: " in printed.err
    )


def test_validate_prints_what_loads_to_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", DEMO, "--resolved"]) == 0
    resolved = capsys.readouterr().out
    (tmp_path / "again.yaml").write_text(resolved)
    assert main(["validate", str(tmp_path / "again.yaml"), "--resolved"]) == 0
    assert capsys.readouterr().out == resolved


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("teachers", ["dcn_v2", "deepfm", "din", "dlrm", "gem"]),
        ("students", ["dcn_v2", "deepfm", "din", "dlrm", "gem"]),
        ("channels", ["ah", "single"]),
        ("sources", ["kuairand", "parquet", "simulator"]),
        ("kernels", ["embedding"]),
    ],
)
def test_ls(kind: str, names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", kind]) == 0
    listed = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines() if line[:1].strip()]
    assert set(names) <= set(listed) and listed == sorted(listed)


def test_ls_prints_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "channels", "ah"]) == 0
    printed = capsys.readouterr().out
    assert "Needs: teacher.\n" in printed and "  tap (text; penultimate): " in printed


def test_compare_and_report(
    pipeline: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    compared: list[Any] = []
    stand_in(
        monkeypatch, "experiments.compare", print_comparison=lambda folders, console: compared.append(folders)
    )
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 0
    assert compared == [[tmp_path, tmp_path]]
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"Report: {tmp_path}/report.html\n"
    stand_in(monkeypatch, "experiments.watch", watch=lambda folder: folder / "watched.html")
    assert main(["report", str(tmp_path), "--watch"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Report: {tmp_path}/watched.html"


def test_data_simulate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    stand_in(monkeypatch, "stand_in_simulator", prepare=lambda *arguments: asked.append(arguments[:3]))
    entry = Entry("simulator", SimulatorConfig, "stand_in_simulator:prepare", "")
    monkeypatch.setitem(SOURCES._entries, "simulator", entry)
    assert main(["data", "simulate", str(tmp_path / "new"), "--set", "days=3"]) == 0
    ((config, data, folder),) = asked
    assert (config.days, data.source, folder) == (3, "simulator", tmp_path / "new")
    assert capsys.readouterr().out == f"Data set: {tmp_path}/new\n"


def test_data_describe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_small(tmp_path / "small", days=2, rows=10)
    assert main(["data", "describe", str(tmp_path / "small"), "--through", "1"]) == 0
    printed = capsys.readouterr().out
    assert "test data set, 20 rows, fingerprint ffffffffffff" in printed
    # Rows 0, 2, 4, 6, 8 of a day are on `feed`; every third row of a day is a click: 0 and 6 of these.
    rows = [line.split() for line in printed.splitlines()]
    assert any(row[1:10:2] == ["feed", "click", "5", "2", "0.4000"] for row in rows)
    assert main(["data", "describe", str(tmp_path / "small")]) == 2
    assert "--through: got 11, allowed: 1 to 2" in capsys.readouterr().err


def test_data_describe_tells_how_ids_are_numbered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_small(tmp_path / "small").folder
    schema = yaml.safe_load((folder / "schema.yaml").read_text())
    schema["sparse"]["item_id"]["ids"] = "vocabulary"
    (folder / "schema.yaml").write_text(yaml.safe_dump(schema))
    assert main(["data", "describe", str(folder), "--through", "1"]) == 0
    assert f"{schema['sparse']['item_id']['size']} by vocabulary" in capsys.readouterr().out


def test_data_describe_prints_modalities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_content(tmp_path / "small")
    assert main(["data", "describe", str(tmp_path / "small"), "--through", "1"]) == 0
    lines = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    assert "image item 2 numbers, known of 85.7% of the items" in lines
    assert "text item 1 numbers, known of 14.3% of the items" in lines


STUDENTS = [
    {"name": "one", "architecture": "din", "verticals": ["feed"], "options": {"dim": 8, "history_length": 3}},
    {
        "name": "two",
        "architecture": "dcn_v2",
        "verticals": ["explore"],
        "options": {"cross_rank": 4, "mlp": [4]},
    },
]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**70),
    st.floats(),
    st.sampled_from(["gem", "ah", "", "feed"]),
    st.lists(st.one_of(st.integers(-2, 9), st.floats(), st.text(max_size=2)), max_size=3),
)


def leaves(content: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value below a mapping or list."""
    items = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    return [found for key, value in items for found in [(content, key), *leaves(value)]]


@settings(max_examples=25)
@given(data=st.data())
def test_a_mutated_experiment_never_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = copy.deepcopy(yaml.safe_load(Path(DEMO).read_text()) | {"students": STUDENTS})
    content["data"]["options"] |= {"surfaces": ["feed", "explore"], "start_date": "2026-01-01"}
    for _ in range(data.draw(st.integers(1, 2))):
        container, key = data.draw(st.sampled_from(leaves(content)))
        container[key] = data.draw(VALUES)
    path = tmp_path_factory.getbasetemp() / "mutated.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True))
    with pytest.MonkeyPatch.context() as patch:
        said = io.StringIO()
        patch.setattr(sys, "stderr", said)
        assert main(["validate", str(path)]) in (0, 2), said.getvalue()


def test_compare_keeps_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_synthetic_run(tmp_path / "run")
    assert main(["compare", str(tmp_path / "run"), "--save", str(tmp_path / "kept.csv")]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for name, key in (("kept.csv", "rows"), ("kept_transfer.csv", "transfer")):
        with (tmp_path / name).open(newline="") as file:
            kept = list(csv.DictReader(file))
        as_text = [{k: "" if v is None else str(v) for k, v in row.items()} for row in results[key]]
        assert kept and kept == as_text
