"""What all studies share: tables that renew rows, numbers for people, pictures."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import t

from distill.errors import UserError
from distill.fields import field_help
from experiments.__main__ import main
from experiments.studies.ablation.file import Ablation, Variant
from experiments.studies.history.file import History, Reader
from experiments.studies.picture import Mark, Panel, Series, seed_interval, write_panels
from experiments.studies.scaling.file import Scaling
from experiments.studies.tables import append_row, beside, read_table, replace_rows
from experiments.studies.text import gain_text, interval_text, large, number
from experiments.studies.transfer.file import Slice, Transfer
from experiments.studies.tuning_file import Tuning

COLUMNS = ("data", "split", "value")
SVG = "{http://www.w3.org/2000/svg}"


def test_new_rows_take_the_place_of_those_they_renew(tmp_path: Path) -> None:
    table = tmp_path / "results" / "table.csv"
    replace_rows(table, COLUMNS, [_row("a", "tune", 1.0), _row("a", "test", 2.0)], ("data", "split"))
    replace_rows(table, COLUMNS, [_row("b", "tune", 3.0)], ("data", "split"))
    replace_rows(table, COLUMNS, [_row("a", "tune", 4.0), _row("a", "tune", None)], ("data", "split"))
    assert table.read_text().splitlines() == [
        *("data,split,value", "a,test,2", "b,tune,3", "a,tune,4", "a,tune,"),
    ]


def test_nothing_is_minus_nothing() -> None:
    assert number(-1e-5, 2) == "0.00"
    row = {"gain": -1e-6, "low": -2e-5, "high": 1e-5}
    assert gain_text(row).strip() == "+0.0000" and interval_text(row) == "+0.0000 [+0.0000, +0.0000]"


def _row(data: str, split: str, value: float | None) -> dict[str, object]:
    return {"data": data, "split": split, "value": value}


def test_a_table_of_another_form_is_refused_and_kept(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("data,score\na,1\n")
    with pytest.raises(UserError, match="columns: got data, score, allowed: data, split, value"):
        replace_rows(table, COLUMNS, [_row("a", "tune", 1.0)], ("data",))
    assert table.read_text() == "data,score\na,1\n"


def test_rows_are_added_below_the_head(tmp_path: Path) -> None:
    table = tmp_path / "results" / "table.csv"
    assert read_table(table, COLUMNS) == []
    for value in (0.123456789, 1e-9):
        append_row(table, COLUMNS, _row("a", "tune", value))
    assert [row["value"] for row in read_table(table, COLUMNS)] == ["0.1234568", "1e-09"]


def test_tables_that_belong_together_lie_together() -> None:
    assert beside(Path("r/gem_ablation.csv"), "trials") == Path("r/gem_ablation_trials.csv")


@pytest.mark.parametrize(
    ("value", "text"),
    [(950, "950"), (12_345, "12.3 k"), (4.56e6, "4.56 M"), (7.89e9, "7.89 G"), (1e12, "1 T"), (None, "–")],
)
def test_large_numbers(value: float | None, text: str) -> None:
    assert large(value) == text


@pytest.mark.parametrize(
    ("gain", "low", "high", "text"),
    [(0.01, 0.001, 0.02, "+0.0100*"), (-0.01, -0.02, -0.001, "-0.0100*"), (0.01, -0.1, 0.1, "+0.0100 ")],
)
def test_gains_are_marked_when_clear(gain: float, low: float, high: float, text: str) -> None:
    assert gain_text({"gain": gain, "low": low, "high": high}) == text


def test_what_is_unknown_is_not_made_up() -> None:
    assert gain_text(None) == gain_text({"gain": None, "low": None, "high": None}) == ""
    assert gain_text({"gain": 0.5, "low": None, "high": None}) == "+0.5000 "
    assert interval_text({"gain": 0.5, "low": None, "high": None}, digits=2) == "+0.50"
    assert (number(None, 3), number(1234.5678, 2)) == ("–", "1,234.57")


def test_the_interval_of_a_mean_over_seeds() -> None:
    values = [0.9, 0.91, 0.95]
    half = t.ppf(0.975, 2) * np.std(values, ddof=1) / np.sqrt(3)
    assert seed_interval(values) == pytest.approx((0.92 - half, 0.92 + half))
    assert seed_interval([0.9]) == (None, None)


def test_pictures_stand_alone(tmp_path: Path) -> None:
    marks = [Mark(10.0, 0.9, 0.8, 1.0, label="xs", tooltip="a & b"), Mark(1000.0, 0.7)]
    curve = [(10.0, 0.9), (1000.0, 0.7)]
    panels = [Panel("one", "events", [Series("<a>", marks, curve), Series("b", marks, joined=True)])] * 2
    write_panels(tmp_path / "p.svg", "heading", "note", panels)
    root = ElementTree.parse(tmp_path / "p.svg").getroot()
    dots = root.findall(f".//{SVG}circle[@class='dot']")
    assert len(dots) == 2 * 2 * 2
    first, second = ([float(dot.attrib[axis]) for dot in dots[:2]] for axis in ("cx", "cy"))
    assert first[0] < first[1] and second[0] < second[1], "more events to the right, a smaller NE below"
    assert len(root.findall(f".//{SVG}polyline[@class='curve']")) == 2
    assert len(root.findall(f".//{SVG}polyline[@class='joined']")) == 2
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert (
        texts.count("<a>") == 1 and texts.count("xs") == 4 and {"heading", "note", "10", "1k"} <= set(texts)
    )
    assert all(0 <= float(dot.attrib["cx"]) <= 700 for dot in dots)


@pytest.mark.parametrize("form", [Tuning, Ablation, Variant, Scaling, History, Reader, Transfer, Slice])
def test_every_key_of_a_study_file_is_explained(form: type) -> None:
    assert all(help_.text for help_ in field_help(form))


@pytest.mark.parametrize("study", ["tune", "ablation", "efficiency", "scaling", "history", "transfer"])
def test_help_on_a_study_is_its_file_explained(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", study, "--help"]) == 0
    assert "  experiment (text; required): experiment file" in capsys.readouterr().out
