"""Scales, ticks and labels of the report's pictures."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.report.series import style
from experiments.report.svg import (
    Scale,
    bounds,
    error_bar,
    log_ticks,
    picture,
    spread,
    tag,
    text,
    tick_labels,
    ticks,
)
from experiments.summary import CHANNELS


def test_scale_is_straight() -> None:
    scale = Scale(0.8, 0.9, 100.0, 300.0)
    assert [scale(v) for v in (0.8, 0.85, 0.9)] == pytest.approx([100.0, 200.0, 300.0])


def test_logarithmic_scale() -> None:
    scale = Scale(1.0, 100.0, 0.0, 10.0, logarithmic=True)
    assert [scale(v) for v in (1.0, 10.0, 100.0)] == pytest.approx([0.0, 5.0, 10.0])


@pytest.mark.parametrize(
    "low,high,expected",
    [
        (0.81, 0.93, [0.82, 0.84, 0.86, 0.88, 0.9, 0.92]),
        (-0.03, 1.03, [0.0, 0.5, 1.0]),
        (0.7, 1.35, [0.8, 1.0, 1.2]),
        (0.0, 0.35, [0.0, 0.1, 0.2, 0.3]),
        (0.0, 10.0, [0.0, 5.0, 10.0]),
    ],
)
def test_ticks_are_round_numbers_inside(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_log_ticks() -> None:
    assert log_ticks(12.0, 500.0) == [20.0, 50.0, 100.0, 200.0, 500.0]
    assert log_ticks(2.0, 5_000.0) == [10.0, 100.0, 1000.0]


@pytest.mark.parametrize(
    "values,expected",
    [
        ([0.8, 0.85, 0.9], ["0.80", "0.85", "0.90"]),
        ([-0.5, 0.0, 0.5], ["−0.5", "0.0", "0.5"]),
        ([1.0, 2.0], ["1", "2"]),
        ([0.0005, 0.001], ["0.0005", "0.0010"]),
    ],
)
def test_tick_labels_share_their_digits(values: list[float], expected: list[str]) -> None:
    assert tick_labels(values) == expected


def test_bounds_of_one_value_have_a_length() -> None:
    for value in (0.0, 0.85, -3.0):
        low, high = bounds([value])
        assert low < value < high


def test_labels_far_apart_stay_where_they_are() -> None:
    assert spread([10.0, 50.0, 90.0], 12.0, 0.0, 100.0) == [10.0, 50.0, 90.0]


def test_labels_at_one_place_are_spread_around_it() -> None:
    assert sorted(spread([50.0, 50.0], 12.0, 0.0, 100.0)) == pytest.approx([44.0, 56.0])


@given(st.lists(st.floats(-50, 150), min_size=1, max_size=14), st.floats(1, 20))
def test_labels_never_overlap_nor_leave_the_room(positions: list[float], gap: float) -> None:
    placed = spread(positions, gap, 0.0, 100.0)
    room = 100.0 / max(len(positions) - 1, 1)
    ordered = sorted(placed)
    assert ordered[0] >= -1e-6 and ordered[-1] <= 100 + 1e-6
    assert all(b - a >= min(gap, room) - 1e-6 for a, b in zip(ordered, ordered[1:], strict=False))
    by_wish = [placed[i] for i in sorted(range(len(positions)), key=lambda i: positions[i])]
    assert by_wish == ordered


def test_error_bar_beyond_the_axis_ends_in_an_arrow() -> None:
    scale = Scale(0.0, 1.0, 0.0, 100.0)
    assert error_bar(0.2, 0.8, scale, 10.0).count("<path") == 0
    assert error_bar(-3.0, 0.8, scale, 10.0).count("<path") == 1
    assert error_bar(-3.0, 9.0, scale, 10.0).count("<path") == 2


def test_markup_is_escaped() -> None:
    drawn = picture(10, 10, 'a "b" <c>', text(1, 2, "<d> & e"), tag("g", class_='"f"'))
    root = ElementTree.fromstring(drawn)
    assert root.attrib == {"viewBox": "0 0 10 10", "role": "img", "aria-label": 'a "b" <c>'}
    assert [child.text for child in root] == ["<d> & e", None]
    assert root[1].attrib == {"class": '"f"'}


def test_every_channel_looks_different() -> None:
    names = ["none", *CHANNELS, "mine", "yours"]
    looks = [style("student", name, names) for name in names] + [style("teacher", "none", names)]
    assert len(set(looks)) == len(looks)


def test_a_channel_keeps_its_look_in_every_run() -> None:
    assert style("student", "ah", ["none", "ah"]) == style("student", "ah", ["none", *CHANNELS, "mine"])
