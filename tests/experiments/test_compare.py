"""The comparison in the terminal: numbers as in results.json, marks as the paired intervals say."""

from __future__ import annotations

import io
import subprocess
import sys
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from rich.console import Console

from distill.errors import UserError
from distill.results import read_results
from experiments.compare import print_comparison
from tests.experiments.synthetic_run import write_synthetic_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A channel that helps beyond doubt, and one that is `none` again."""
    noise = {"teacher": 0.05, "none": 0.8, "single": 0.8, "ah": 0.1}
    return write_synthetic_run(tmp_path_factory.mktemp("compare") / "run", noise=noise, rows_per_day=600)


@cache
def printed(*folders: Path, terminal: bool = False, width: int = 80) -> str:
    out = io.StringIO()
    print_comparison(folders, Console(file=out, force_terminal=terminal, width=width))
    return out.getvalue()


def table(text: str, title: str) -> list[list[str]]:
    """Words of the lines between a title and the next empty line."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.strip() == title)
    stop = next((number for number in range(start, len(lines)) if not lines[number].strip()), len(lines))
    return [line.split() for line in lines[start + 1 : stop]]


def mean(run: Path, column: str, **fields: Any) -> float:
    rows = read_results(run / "results.json")["rows"]
    return fmean(row[column] for row in rows if all(row[name] == value for name, value in fields.items()))


def test_scores_are_those_of_results(run: Path) -> None:
    head, *lines = table(printed(run), "reels, conversion")
    assert head == ["model", "channel", "NE", "gain", "AUC", "gain", "calibration"]
    assert [line[:2] for line in lines] == [
        ["deepfm", "none"],
        ["deepfm", "single"],
        ["deepfm", "ah"],
        ["gem", "teacher"],
    ]
    place = {"vertical": "reels", "task": "conversion"}
    none = {c: mean(run, c, **place, role="student", channel="none") for c in ("ne", "auc", "calibration")}
    ah = {c: mean(run, c, **place, role="student", channel="ah") for c in ("ne", "auc", "calibration")}
    assert lines[0][2:] == [f"{none['ne']:.4f}", f"{none['auc']:.4f}", f"{none['calibration']:.3f}"]
    numbers = [float(word.rstrip("*")) for word in lines[2][2:]]
    expected = [ah["ne"], none["ne"] - ah["ne"], ah["auc"], ah["auc"] - none["auc"], ah["calibration"]]
    assert numbers == pytest.approx(expected, abs=6e-4)


def test_clear_differences_are_marked(run: Path) -> None:
    """`ah` gains beyond doubt on all three measures' ratios; `single` is `none` with other noise."""
    _, none, single, ah, teacher = table(printed(run), "feed, click")
    assert "*" not in "".join(none + single)
    assert ah[3].endswith("*") and ah[5].endswith("*")
    assert teacher[3].endswith("*")
    rows = read_results(run / "results.json")["transfer"]
    (row,) = [
        r
        for r in rows
        if (r["vertical"], r["task"], r["channel"], r["measure"]) == ("feed", "click", "ah", "ne")
    ]
    assert row["tr_low"] > 0
    assert float(ah[3].rstrip("*")) == pytest.approx(row["delta_vm"], abs=6e-5)


def test_transfer_ratios_over_all_verticals(run: Path) -> None:
    head, *lines = table(printed(run), "transfer ratio, click")
    assert head == ["model", "channel", "over", "NE", "AUC", "NE", "after", "intercept"]
    rows = read_results(run / "results.json")["transfer"]
    of = {
        r["measure"]: r for r in rows if (r["vertical"], r["task"], r["channel"]) == ("macro", "click", "ah")
    }
    expected = [
        f"{of[m]['tr']:.2f} [{of[m]['tr_low']:.2f}, {of[m]['tr_high']:.2f}]"
        for m in ("ne", "auc", "ne_intercept")
    ]
    assert " ".join(lines[1]) == "deepfm ah all verticals " + " ".join(expected)


def test_findings_stand_above_the_tables(run: Path) -> None:
    lines = printed(run).splitlines()
    assert lines[1].startswith("  click: ah carries ") and lines[2].startswith("  conversion: ah carries ")
    assert "of 12 gains" in lines[3].lower()


def test_calibration_error_of_every_model_on_every_vertical(run: Path) -> None:
    head, *lines = table(printed(run), "calibration error, click")
    assert head == ["model", "channel", "feed", "reels", "stories"]
    assert [line[:2] for line in lines] == [
        ["deepfm", "none"],
        ["deepfm", "single"],
        ["deepfm", "ah"],
        ["gem", "teacher"],
    ]
    # The noise of `none` makes it too sure of itself; `ah` is close to the truth.
    assert all(float(none) > float(ah) for none, ah in zip(lines[0][2:], lines[2][2:], strict=True))


def test_cost_of_every_cell(run: Path) -> None:
    head, *lines = table(printed(run), "cost of one training")
    assert " ".join(head) == "model vertical channel parameters FLOPs/example processor s examples/s"
    assert len(lines) == 10
    # 12.9 million parameters, 3 million FLOPs and 290 to 292 s, as the synthetic trainings report.
    assert lines[-1][:8] == ["gem", "all", "none", "12.9", "M", "3", "M", "291.0"]


def test_slices_and_corrections(tmp_path: Path) -> None:
    noise = {"teacher": 0.05, "none": 0.8, "ah_adapter": 0.1}
    folder = write_synthetic_run(tmp_path / "run", noise, {"deepfm": ("feed",)}, rows_per_day=600, data=True)
    text = printed(folder)
    head, examples, adapter, teacher = table(text, "slices of feed, click")
    assert head == ["model", "channel", "old/old", "old/new"]
    rows = read_results(folder / "results.json")["rows"]
    assert sum(int(count.replace(",", "")) for count in examples[2:]) == rows[-1]["examples"]
    assert adapter[:2] == ["deepfm", "ah_adapter"] and adapter[2].endswith("*") and teacher[2].endswith("*")
    head, line = table(text, "corrected teacher, in logits; gain in its loss")
    # Day 10 of the synthetic trainings: 0.2 + 0.1 seed + 0.01 day; 0.001 day; -0.05; 0.02 day.
    assert line == ["deepfm", "feed", "ah_adapter", "10", "0.400", "+0.0100", "-0.050", "+0.200"]


def test_runs_stand_side_by_side(run: Path, tmp_path: Path) -> None:
    other = write_synthetic_run(tmp_path / "other", seeds=(0,), name="other")
    text = printed(run, other)
    assert "synthetic: development scores of days 9, 10, 11, seeds 0, 1, 2" in text
    head, *lines = table(text, "feed, click")
    assert head[:3] == ["model", "channel", "run"]
    assert [line[1:3] for line in lines][:4] == [
        ["none", "synthetic"],
        ["none", "other"],
        ["single", "synthetic"],
        ["single", "other"],
    ]


def test_runs_of_one_name_are_told_apart_by_folder(run: Path, tmp_path: Path) -> None:
    other = write_synthetic_run(tmp_path / "again", seeds=(0,))
    text = printed(run, other)
    assert f"{run}: development" in text and f"{other}: development" in text


def test_model_that_loses_to_its_constant_is_named(tmp_path: Path) -> None:
    folder = write_synthetic_run(tmp_path / "run", noise={"teacher": 0.2, "none": 4.0}, seeds=(0,))
    _, none, teacher = table(printed(folder), "feed, click")
    assert "loses to its constant" in " ".join(none) and "loses" not in teacher


def test_undefined_ratio_is_called_so(tmp_path: Path) -> None:
    folder = write_synthetic_run(tmp_path / "run", noise={"teacher": 0.75, "none": 0.75, "ah": 0.5})
    rows = read_results(folder / "results.json")["transfer"]
    (row,) = [r for r in rows if (r["vertical"], r["task"], r["measure"]) == ("macro", "click", "ne")]
    assert row["tr"] is None
    assert table(printed(folder), "transfer ratio, click")[1][5] == "undefined"


def test_a_pipe_gets_plain_text_and_a_terminal_colours(run: Path) -> None:
    assert "\x1b[" not in printed(run) and "─" not in printed(run)
    assert "\x1b[" in printed(run, terminal=True, width=100)


def test_a_terminal_of_80_columns_suffices(run: Path) -> None:
    plain = Console(file=io.StringIO(), force_terminal=True, width=80, no_color=True, color_system=None)
    print_comparison([run], plain)
    text = plain.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80 + len("\x1b[1m\x1b[0m") * 12


def test_run_without_scores_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: begun\n")
    with pytest.raises(UserError, match="got a run without scores, allowed: scored runs"):
        printed(run, tmp_path)


def test_torch_is_not_imported() -> None:
    code = "import sys, experiments.compare, experiments.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
