"""What report and comparison say beyond the scores: slices, reliability, corrections, the family, the findings."""

from __future__ import annotations

import dataclasses
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from distill.dataset import DataSet
from distill.errors import DataError
from distill.schema import DayInfo, FeatureSchema, SparseFeature, Task
from distill.sources.writer import PreparedWriter
from experiments.corrections import corrections
from experiments.familiarity import Familiarity, familiarity, familiarity_of
from experiments.family import Link, family
from experiments.overview import best_channels, findings
from experiments.recorded import RecordedRun, read_run
from experiments.reliability import Decile, calibration_error, deciles, reliability
from experiments.slices import SliceTable, slice_tables
from experiments.summary import Panel, paired_gains, panels
from tests.experiments.synthetic_run import NEW_ITEMS, write_synthetic_run

CHANNELS = {"teacher": 0.05, "none": 0.8, "ah": 0.8, "ah_adapter": 0.1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    """A channel that is `none` again and one that helps beyond doubt, on two verticals."""
    folder = tmp_path_factory.mktemp("facts") / "run"
    models = {"deepfm": ("feed", "reels")}
    write_synthetic_run(folder, CHANNELS, models, rows_per_day=600, data=True)
    return read_run(folder)


@pytest.fixture(scope="module")
def found(run: RecordedRun) -> list[Panel]:
    return panels(run, paired_gains(run))


@pytest.fixture(scope="module")
def tables(run: RecordedRun, found: list[Panel]) -> list[SliceTable]:
    familiar = familiarity_of(run)
    assert isinstance(familiar, Familiarity)
    return slice_tables(run, found, familiar)


def cell(run: RecordedRun, vertical: str, channel: str) -> str:
    (found,) = [
        c.cell_id for c in run.cells if (c.vertical, c.channel, c.role) == (vertical, channel, "student")
    ]
    return found


# Familiarity


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    """Three days of (user, item): day 1 (1, 7) (2, 8); day 2 (1, 8) (3, 7); day 3 (3, 9) (4, 9) (3, 7) (5, 8)."""
    days = [[(1, 7), (2, 8)], [(1, 8), (3, 7)], [(3, 9), (4, 9), (3, 7), (5, 8)]]
    schema = FeatureSchema(
        name="three_days",
        domains=("feed",),
        verticals=("feed",),
        days=tuple(DayInfo(f"2026-01-0{n}", 100 * n) for n in (1, 2, 3)),
        tasks={"click": Task("click")},
        sparse={"item_id": SparseFeature("item_id", 10, "item")},
    )
    with PreparedWriter(tmp_path / "data", schema, source="test", fingerprint="f" * 64) as writer:
        first = 0
        for day, rows in enumerate(days, start=1):
            users, items = zip(*rows, strict=True)
            columns = {
                "example_id": range(first, first + len(rows)),
                "user_id": users,
                "timestamp": [100 * day - 50] * len(rows),
                "domain": [0] * len(rows),
                "item_id": items,
                "label_click": [0] * len(rows),
            }
            writer.write_day(
                day, pa.table({name: pa.array(values, pa.int64()) for name, values in columns.items()})
            )
            first += len(rows)
    return DataSet.open(tmp_path / "data")


def test_old_is_what_an_earlier_day_has_shown(data: DataSet) -> None:
    """Groups: 0 old user, old item; 1 old user, new item; 2 new user, old item; 3 both new."""
    found = familiarity(data, [3, 2])
    assert found.example_id.tolist() == [2, 3, 4, 5, 6, 7]
    assert found.group.tolist() == [0, 2, 1, 3, 0, 2]
    assert found.of(np.array([7, 2])).tolist() == [2, 0]


def test_a_row_of_another_data_set_is_refused(data: DataSet) -> None:
    with pytest.raises(
        DataError, match=r"example_id: got 99 \(1 rows\), allowed: rows of the prepared data set"
    ):
        familiarity(data, [3]).of(np.array([4, 99]))


def test_without_its_data_set_a_run_says_why_there_are_no_slices(run: RecordedRun, tmp_path: Path) -> None:
    config = {**run.config, "data": {**run.config["data"], "cache": str(tmp_path)}}
    said = familiarity_of(dataclasses.replace(run, config=config))
    assert isinstance(said, str) and "is not where it was" in said


# Slices


def rows_of(run: RecordedRun, cell_id: str, seed: int) -> dict[str, np.ndarray]:
    """Labelled tune rows of one prediction file."""
    table = pq.read_table(run.folder / "predictions" / cell_id / f"{seed}.parquet")
    columns = {name: table[name].to_numpy() for name in table.column_names}
    tune = columns["split"] == "tune"
    return {name: values[tune] for name, values in columns.items()}


def logloss(rows: dict[str, np.ndarray], inside: np.ndarray) -> float:
    logit, label = rows["logit_click"][inside].astype(float), rows["label_click"][inside]
    return float(np.mean(np.log1p(np.exp(-logit * (2.0 * label - 1.0)))))


def test_gains_of_a_slice_by_hand(run: RecordedRun, tables: list[SliceTable]) -> None:
    (table,) = [t for t in tables if (t.vertical, t.task) == ("reels", "click")]
    fresh = next(each for each in table.slices if each.name == "old user, new item")
    none, ah = (
        [rows_of(run, cell(run, "reels", name), seed) for seed in (0, 1, 2)]
        for name in ("none", "ah_adapter")
    )
    # Items of day n lie below 40 n and repeat within the day: new are those that no earlier day could have.
    example, day = none[0]["example_id"], none[0]["day"]
    inside = example % (NEW_ITEMS * day) >= NEW_ITEMS * (day - 1)
    assert fresh.examples == inside.sum() and fresh.positives == none[0]["label_click"][inside].sum()
    rate = next(row["base_rate"] for row in run.rows if (row["vertical"], row["task"]) == ("reels", "click"))
    entropy = -rate * log(rate) - (1 - rate) * log(1 - rate)
    ne = [np.mean([logloss(rows, inside) for rows in seeds]) / entropy for seeds in (none, ah)]
    assert fresh.none == pytest.approx(ne[0])
    assert fresh.gains["ah_adapter"].value == pytest.approx(ne[0] - ne[1])


def test_slices_add_up_to_the_surface(run: RecordedRun, tables: list[SliceTable]) -> None:
    table = tables[0]
    rows = [
        r
        for r in run.rows
        if (r["vertical"], r["task"], r["channel"]) == (table.vertical, table.task, "none")
    ]
    rows = [row for row in rows if row["role"] == "student"]
    assert sum(each.examples for each in table.slices) == rows[0]["examples"]
    weighted = sum(each.examples * (each.none or 0.0) for each in table.slices)
    assert weighted / rows[0]["examples"] == pytest.approx(np.mean([row["ne"] for row in rows]))


def test_the_interval_knows_help_from_none(tables: list[SliceTable]) -> None:
    old = tables[0].slices[0]
    assert old.name == "old user, old item"
    assert old.gains["ah_adapter"].above_zero and old.gains["teacher"].above_zero
    assert not old.gains["ah"].excludes_zero


# Reliability


def test_deciles_by_hand() -> None:
    """Twenty rows, two a decile; the upper half is positive."""
    logit, label = np.log(np.arange(1, 21) / np.arange(20, 0, -1)), np.repeat([0, 1], 10)
    found = deciles(logit, label)
    assert [d.examples for d in found] == [2] * 10
    assert [d.observed for d in found] == [0.0] * 5 + [1.0] * 5
    assert [found[0].predicted, found[9].predicted] == pytest.approx([1.5 / 21, 19.5 / 21])


def test_few_rows_have_a_part_each() -> None:
    found = deciles(np.array([2.0, -2.0, 0.0]), np.array([1, 0, 1]))
    assert [(round(d.predicted, 3), d.observed) for d in found] == [(0.119, 0.0), (0.5, 1.0), (0.881, 1.0)]


def test_calibration_error_weighs_by_rows() -> None:
    assert calibration_error([Decile(0.2, 0.1, 30), Decile(0.5, 0.7, 10)]) == pytest.approx(0.125)


def test_mean_of_the_deciles_is_that_of_the_rows(run: RecordedRun, found: list[Panel]) -> None:
    cell_id = cell(run, "feed", "none")
    tenths = reliability(run, found)[cell_id, "feed", "click"]
    seeds = [rows_of(run, cell_id, seed) for seed in (0, 1, 2)]
    rates = [(1 / (1 + np.exp(-rows["logit_click"].astype(float)))).mean() for rows in seeds]
    assert np.average([d.predicted for d in tenths], weights=[d.examples for d in tenths]) == pytest.approx(
        np.mean(rates)
    )
    assert (np.diff([d.predicted for d in tenths]) > 0).all()


# Corrections


def test_corrections_are_means_over_seeds_of_the_days_that_the_teacher_spoke(run: RecordedRun) -> None:
    """The synthetic trainings report 0.2 + 0.1 seed + 0.01 day, and nothing on day 1."""
    (found,) = corrections(run, cell(run, "feed", "ah_adapter"))
    assert found.channel == "adapter" and list(found.size) == list(range(2, 11))
    assert found.size[5].mean == pytest.approx(0.35) and found.size[5].sd == pytest.approx(0.1)
    assert found.gain[10].mean == pytest.approx(0.01)
    assert found.shifts["conversion"][4].mean == pytest.approx(0.08) and set(found.shifts) == {
        "click",
        "conversion",
    }


def test_a_channel_that_hands_the_teacher_on_corrects_nothing(run: RecordedRun) -> None:
    assert corrections(run, cell(run, "feed", "ah")) == []


# Family


FAMILY = """
teacher: {name: gem}
domain_teachers: [{name: small, verticals: [reels, stories], channel: ah}]
channels: {none: {}, ah: {ah: {weight: 1.0}}, both: {ah: {weight: 0.5}, adapter: {}}}
students:
- {name: one, verticals: [feed, reels], route: direct, channels: [], channel_settings: {}}
- {name: two, verticals: [reels], route: hierarchical, channels: [none, both],
   channel_settings: {both: {ah: {weight: 1.0}, adapter: {weight: 2.0}}}}
"""


def of_settings(run: RecordedRun, text: str) -> Any:
    return family(dataclasses.replace(run, config=yaml.safe_load(text), transfer=[], cells=[]))


def test_students_hang_below_those_who_teach_them(run: RecordedRun) -> None:
    root = of_settings(run, FAMILY).teacher
    assert [student.settings["name"] for student in root.students] == ["one"]
    (small,) = root.domain_teachers
    assert small.link == Link("ah", {"ah": {"weight": 1.0}}, [])
    assert [(s.settings["name"], s.verticals) for s in small.students] == [("two", ["reels"])]
    assert [link.channel for link in root.students[0].links] == ["ah", "both"]
    assert [link.written for link in root.students[0].links] == ["", "ah ×0.5 + adapter"]
    assert [link.written for link in small.students[0].links] == ["ah + adapter ×2"]


def test_without_a_teacher_students_are_orphans(run: RecordedRun) -> None:
    found = of_settings(run, FAMILY.replace("{name: gem}", "null"))
    assert found.teacher is None and [one.settings["name"] for one in found.orphans] == ["one", "two"]


def test_a_link_carries_the_ratios_of_results(run: RecordedRun) -> None:
    root = family(run).teacher
    assert root is not None
    link = next(link for link in root.students[0].links if link.channel == "ah_adapter")
    assert {(row["task"], row["measure"], row["channel"]) for row in link.ratios} == {
        ("click", "ne", "ah_adapter"),
        ("conversion", "ne", "ah_adapter"),
    }
    assert {row["vertical"] for row in link.ratios} == {"feed", "reels"}, "it does not serve stories"
    assert root.cost is not None and root.cost["parameters"] == 12_900_000


# Findings


def test_the_best_channel_is_the_one_that_gains_most(run: RecordedRun, found: list[Panel]) -> None:
    bests = best_channels(run, found)
    assert [(b.panel.vertical, b.panel.task) for b in bests] == [
        (v, t) for v in ("feed", "reels") for t in ("click", "conversion")
    ]
    for best in bests:
        assert best.entry is not None and best.entry.label == "ah_adapter" and best.channels == 2
        assert best.transfer is not None and best.transfer["vertical"] == best.panel.vertical


def test_findings_count_what_is_clear(run: RecordedRun, found: list[Panel]) -> None:
    lines = findings(run, found)
    (clear,) = [line for line in lines if line.startswith("Of ")]
    assert clear.startswith("Of 8 gains") and "4 are clearly above 0 and 0 clearly below" in clear
    assert "No model loses to predicting the base rate." in lines
    # 3,000,000 and 150,000 FLOPs in the synthetic trainings.
    assert "An example costs the teacher 20 times the FLOPs of the median student, in training." in lines


def test_findings_name_the_most_over_all_verticals(run: RecordedRun, found: list[Panel]) -> None:
    row = {**run.transfer[0], "vertical": "macro", "task": "click", "measure": "ne", "split": "tune"}
    rows = [
        {**row, "channel": "ah", "tr": 0.2, "tr_low": -0.1, "tr_high": 0.5},
        {**row, "channel": "ah_adapter", "tr": 0.456, "tr_low": 0.31, "tr_high": 0.6},
        {**row, "task": "conversion", "channel": "ah", "tr": None, "tr_low": None, "tr_high": None},
    ]
    click, conversion, *_ = findings(dataclasses.replace(run, transfer=rows), found)
    assert click == (
        "click: ah_adapter carries 46 % of the teacher's gain to deepfm over all verticals (95 % interval 31 % to "
        "60 %), the most of 2 compared."
    )
    assert conversion.startswith("conversion: the teacher is not clearly better")


def test_findings_of_one_channel_and_one_seed(run: RecordedRun, found: list[Panel]) -> None:
    """No minus before a nought, nothing is the most of one, and one seed says nothing of other seeds."""
    row = {**run.transfer[0], "vertical": "macro", "task": "click", "measure": "ne", "split": "tune"}
    rows = [{**row, "channel": "ah", "tr": -0.001, "tr_low": -0.021, "tr_high": 0.004}]
    lines = findings(dataclasses.replace(run, transfer=rows, config={**run.config, "seeds": [0]}), found)
    assert lines[0] == (
        "click: ah carries 0 % of the teacher's gain to deepfm over all verticals (95 % interval −2 % to 0 %)."
    )
    assert any("With one seed, intervals do not count the luck of a training." in line for line in lines)


def test_findings_name_the_vertical_where_no_student_serves_all(run: RecordedRun, found: list[Panel]) -> None:
    ratios = {
        (row["tr"], row["vertical"])
        for row in run.transfer
        if (row["task"], row["measure"], row["channel"]) == ("click", "ne", "ah_adapter")
    }
    most, vertical = max(ratios)
    expected = f"click: ah_adapter carries {100 * most:.0f} % of the teacher's gain to deepfm on {vertical} ("
    assert findings(run, found)[0].startswith(expected)
