"""A snapshot says up to when it has seen data, and is no start for the same days."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill.errors import UserError
from distill.schema import DayInfo
from distill.seen_days import refuse_seen, seen_through
from distill.tensor_file import write_tensors

HOUR = 3_600_000
THIRD = DayInfo("2026-01-03", 72 * HOUR)


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    write_tensors(tmp_path / "day.safetensors", {"x": torch.zeros(1)}, seen_through(THIRD))
    return tmp_path / "day.safetensors"


def test_the_facts_of_a_day() -> None:
    assert seen_through(THIRD) == {"seen": {"date": "2026-01-03", "end_ms": 259_200_000}}


@pytest.mark.parametrize("first", [DayInfo("2026-01-04", 96 * HOUR), DayInfo("2026-02-01", 800 * HOUR)])
def test_days_after_those_seen_are_new(snapshot: Path, first: DayInfo) -> None:
    refuse_seen(snapshot, first, "teacher.start")


@pytest.mark.parametrize(
    "first",
    [
        DayInfo("2026-01-01", 24 * HOUR),
        THIRD,
        DayInfo("2026-01-03", 73 * HOUR),  # more rows of the same day
        DayInfo("2026-01-04", 72 * HOUR),  # the same hours under another date
    ],
)
def test_days_that_were_seen_are_refused(snapshot: Path, first: DayInfo) -> None:
    with pytest.raises(UserError) as caught:
        refuse_seen(snapshot, first, "teacher.start")
    said = str(caught.value)
    assert said.startswith(
        f"teacher.start: got {snapshot}, trained up to 2026-01-03, allowed: trained up to a "
    )
    assert f"day before {first.date}" in said and "Name an earlier snapshot, or a data folder" in said


def test_a_snapshot_that_does_not_say_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "day.safetensors", {"x": torch.zeros(1)}, {"trained_through": 1})
    with pytest.raises(
        UserError, match=r"teacher\.start: .* does not say up to when .* train the run .* again"
    ):
        refuse_seen(tmp_path / "day.safetensors", DayInfo("2026-01-09", 216 * HOUR), "teacher.start")
