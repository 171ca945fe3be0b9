"""Labels that are still on their way: planted conversions with known delays, on days of 24 hours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from torch.utils.data import DataLoader

from distill.dataset import DataSet
from distill.delay import FEWEST, LARGEST_TARGET, DelayCounts, Matured, label_rule
from distill.errors import DataError, UserError
from distill.rows import Rows
from distill.schema import DayInfo, FeatureSchema, Task
from distill.sources.config import SimulatorConfig
from distill.sources.simulator.outcomes import _delay_ms
from distill.sources.writer import PreparedWriter
from distill.stream import DayStream
from tests.distill.prepared_data import day_table, small_schema

HOUR = 3_600_000
DAY = 24 * HOUR
WINDOW = 8 * HOUR


@dataclass
class Orders:
    """The rows of a day.

    Attributes:
        hours: when they are shown, hours of the day, rising.
        label: 0, 1 or None.
        delay: hours until the label is known; None where the row has no time of its own.
    """

    hours: Sequence[float]
    label: Sequence[int | None]
    delay: Sequence[float | None]

    def __add__(self, other: Orders) -> Orders:
        """Both, in order of time."""
        order = np.argsort([*self.hours, *other.hours], kind="stable")
        names = ("hours", "label", "delay")
        both = [[*getattr(self, name), *getattr(other, name)] for name in names]
        return Orders(*([column[row] for row in order] for column in both))


def schema(days: int, window: int = WINDOW) -> FeatureSchema:
    return replace(
        small_schema(),
        days=tuple(DayInfo(f"2026-01-{day:02d}", day * DAY) for day in range(1, days + 1)),
        tasks={"click": Task("click"), "order": Task("order", window)},
    )


def write(
    folder: Path,
    days: Sequence[Orders],
    window: int = WINDOW,
    source: str = "test",
    own_times: bool = True,
) -> DataSet:
    target = schema(len(days), window)
    with PreparedWriter(folder, target, source=source, fingerprint="f" * 64) as writer:
        for day, orders in enumerate(days, 1):
            shown = [(day - 1) * DAY + int(hour * HOUR) for hour in orders.hours]
            known = [
                None if wait is None else at + round(wait * HOUR)
                for at, wait in zip(shown, orders.delay, strict=True)
            ]
            changed: dict[str, Any] = {"timestamp": shown, "label_order": list(orders.label)}
            table = day_table(day, len(shown), **changed)
            times = pa.array(known, pa.int64())
            writer.write_day(day, table.append_column("matures_order", times) if own_times else table)
    return DataSet.open(folder)


def past(law: Callable[[np.ndarray], np.ndarray], rows: int = 1000, label: int = 1) -> Orders:
    """Conversions through a day's first 16 hours, their delays (hours) the law's quantiles in mixed order."""
    hours = 16 * np.arange(rows) / rows
    quantiles = (np.random.default_rng(0).permutation(rows) + 0.5) / rows
    return Orders(hours.tolist(), [label] * rows, law(quantiles).tolist())


def uniform(quantile: np.ndarray) -> np.ndarray:
    """F(e) = e / 8 hours."""
    return 8 * quantile


def early(quantile: np.ndarray) -> np.ndarray:
    """Everything within the first hour."""
    return quantile


def last_hours(ago: Sequence[float], label: Sequence[int | None], wait: Sequence[float | None]) -> Orders:
    """Rows so many hours before the day's end."""
    return Orders([24 - hours for hours in ago], label, wait)


def labels_of(data: DataSet, day: int, kind: Any = "weighted") -> tuple[np.ndarray, np.ndarray]:
    """Targets and mask of the task `order`, of a day's rows."""
    (rows,) = data.label_rows(day)
    targets, mask, _ = label_rule(kind, data)(rows, day)
    return targets[:, 1], mask[:, 1]


# What is seen, and what it counts


def test_planted_leak_outcome_is_invisible_before_its_time(tmp_path: Path) -> None:
    # Shown 4 hours before the end: known 1 ms before, at, and 1 ms after it.
    millisecond = 1 / HOUR
    today = last_hours([4, 4, 4], [1, 1, 1], [4 - millisecond, 4, 4 + millisecond])
    targets, mask = labels_of(write(tmp_path / "d", [past(uniform), today]), 2)
    assert mask.tolist() == [True, True, True]
    assert targets.tolist() == pytest.approx([2.0, 2.0, 0.0], rel=0.01)


def test_an_outcome_counts_by_the_chance_of_having_been_seen(tmp_path: Path) -> None:
    ago = [8, 7, 6, 4, 2, 1]
    data = write(tmp_path / "d", [past(uniform), last_hours(ago, [1] * 6, [0.5] * 6)])
    targets, mask = labels_of(data, 2)
    assert mask.all()
    assert targets.tolist() == pytest.approx([1, 8 / 7, 8 / 6, 8 / 4, 8 / 2, 8 / 1], rel=0.02)


def test_matured_rows_stay_as_they_are_beside_open_ones(tmp_path: Path) -> None:
    today = Orders([1, 2, 15, 16], [1, 0, 1, 0], [0.1, 0.0, 8, 8]) + last_hours([4], [1], [1])
    data = write(tmp_path / "d", [past(uniform), today])
    targets, mask = labels_of(data, 2)
    assert targets[:4].tolist() == [1, 0, 1, 0] and mask.all()
    assert labels_of(data, 2, "matured")[1].tolist() == [True, True, True, True, False]


def test_rows_too_young_to_say_anything_are_left_out_whatever_their_outcome(tmp_path: Path) -> None:
    # F reaches 1 / 10 after 48 minutes.
    ago = [0.9, 0.9, 0.9, 0.7, 0.7, 0.7]
    today = last_hours(ago, [1, 1, 0, 1, 1, 0], [0.1, 5, 0, 0.1, 5, 0])
    targets, mask = labels_of(write(tmp_path / "d", [past(uniform), today]), 2)
    assert mask.tolist() == [True] * 3 + [False] * 3
    assert targets.tolist() == pytest.approx([8 / 0.9, 0, 0, 0, 0, 0], rel=0.02)


def test_no_target_is_larger_than_the_largest(tmp_path: Path) -> None:
    ago = np.linspace(8, 0.001, 500)
    data = write(tmp_path / "d", [past(uniform), last_hours(ago.tolist(), [1] * 500, [0.0] * 500)])
    targets, _ = labels_of(data, 2)
    assert 0.97 * LARGEST_TARGET < targets.max() <= LARGEST_TARGET


def test_the_mask_says_nothing_about_the_outcome(tmp_path: Path) -> None:
    ago = np.linspace(12, 0.001, 200).tolist()
    masks = [
        labels_of(write(tmp_path / f"{label}-{wait}", [past(uniform), last_hours(ago, *rows)]), 2)[1]
        for label, wait in ((1, 0.0), (1, 2.0), (1, 8.0), (0, 0.0), (0, 8.0))
        for rows in [([label] * 200, [wait] * 200)]
    ]
    assert 0 < masks[0].sum() < 200
    assert all(np.array_equal(masks[0], mask) for mask in masks)


def test_a_label_still_missing_after_its_window_stays_out(tmp_path: Path) -> None:
    today = last_hours([4, 4], [None, 0], [None, 0])
    data = write(tmp_path / "d", [past(uniform), today, past(uniform)])
    assert labels_of(data, 2)[1].tolist() == [False, True]


def test_of_a_log_exported_while_windows_are_open_what_is_missing_is_not_seen_yet(tmp_path: Path) -> None:
    """Four hours before the end half of the outcomes are seen, and one row of five has one."""
    ago = [9] + [4] * 10
    exported = last_hours(ago, [None, 1] + [None] * 9, [None, 2] + [None] * 9)
    final = last_hours(ago, [None, 1, 1] + [0] * 8, [None, 2, 6] + [8] * 8)
    for name, today in (("exported", exported), ("final", final)):
        targets, mask = labels_of(write(tmp_path / name, [past(uniform), today]), 2)
        assert mask.tolist() == [False] + [True] * 10
        assert targets[1:].tolist() == pytest.approx([2.0] + [0.0] * 9, rel=0.01)


def test_a_row_of_an_earlier_day_whose_window_is_open_at_the_logs_end_is_not_seen_yet(tmp_path: Path) -> None:
    """With a window of 48 hours a quarter of the outcomes are seen after 12; 24 more are over at the log's end."""
    slow = past(lambda quantile: 48 * quantile)
    days = [slow, slow, last_hours([12, 12], [1, None], [3, None]), past(uniform, rows=2)]
    targets, mask = labels_of(write(tmp_path / "d", days, window=48 * HOUR), 3)
    assert mask.tolist() == [True, True]
    assert targets.tolist() == pytest.approx([4.0, 0.0], rel=0.01)


# Where the distribution comes from


def targets_on_day_2(folder: Path, *days: Orders) -> list[float]:
    return labels_of(write(folder, days), 2)[0].tolist()


def test_planted_leak_a_later_days_law_changes_nothing(tmp_path: Path) -> None:
    today = last_hours([4, 2], [1, 1], [1, 1])
    alone = targets_on_day_2(tmp_path / "a", past(uniform), today)
    assert targets_on_day_2(tmp_path / "b", past(uniform), today, past(early)) == alone


def test_planted_leak_the_days_own_outcomes_change_nothing(tmp_path: Path) -> None:
    today = last_hours([4, 2], [1, 1], [1, 1])
    alone = targets_on_day_2(tmp_path / "a", past(uniform), today)
    assert targets_on_day_2(tmp_path / "b", past(uniform), past(early) + today)[-2:] == alone


def test_planted_leak_earlier_rows_whose_window_is_still_open_change_nothing(tmp_path: Path) -> None:
    # With a window of 30 hours, rows of day 1 after 18:00 are not matured at the end of day 2.
    today = last_hours([4, 2], [1, 1], [1, 1])
    late = Orders([18 + r / 1000 for r in range(1, 1000)], [1] * 999, [0.5] * 999)
    for name, first in (("a", past(uniform)), ("b", past(uniform) + late)):
        data = write(tmp_path / name, [first, today], window=30 * HOUR)
        found = DelayCounts(data).until(2, "order")
        assert found is not None and found.counts.sum() == 1000


def test_outcomes_are_counted_once_their_window_has_closed(tmp_path: Path) -> None:
    late = Orders([18 + r / 1000 for r in range(1, 1000)], [1] * 999, [0.5] * 999)
    days = [past(uniform) + late, past(uniform, rows=500), past(uniform, rows=2)]
    counts = DelayCounts(write(tmp_path / "d", days, window=30 * HOUR))
    # Day 1 until 18:00; then all of day 1 and what day 2 showed until 18:00.
    for day, expected in ((2, 1000), (3, 1999 + 500)):
        found = counts.until(day, "order")
        assert found is not None and found.counts.sum() == expected


def test_all_earlier_days_count(tmp_path: Path) -> None:
    data = write(tmp_path / "d", [past(uniform), past(early), last_hours([4], [1], [1])])
    assert labels_of(data, 3)[0].tolist() == pytest.approx([1 / ((0.5 + 1) / 2)], rel=0.01)


def test_only_outcomes_of_1_have_a_delay(tmp_path: Path) -> None:
    first = past(uniform) + past(early, label=0)
    data = write(tmp_path / "d", [first, last_hours([4], [1], [1])])
    assert labels_of(data, 2)[0].tolist() == pytest.approx([2.0], rel=0.01)


def test_outcomes_reported_after_the_window_are_still_to_come_at_its_end(tmp_path: Path) -> None:
    slow = Orders([h / 500 for h in range(500)], [1] * 500, [9.0] * 500)
    data = write(tmp_path / "d", [past(uniform, rows=500) + slow, last_hours([7.999], [1], [1])])
    assert labels_of(data, 2)[0].tolist() == pytest.approx([2.0], rel=0.01)


def test_outcomes_known_at_once_count_as_they_are(tmp_path: Path) -> None:
    data = write(
        tmp_path / "d",
        [past(lambda q: 0 * q), last_hours([4, 0.01, 0.01], [1, 1, 0], [0, 0, 0])],
    )
    targets, mask = labels_of(data, 2)
    assert targets.tolist() == [1, 1, 0] and mask.all()


def test_each_day_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path / "d", [past(uniform)] * 4)
    read, original = list[int](), DataSet.label_rows

    def label_rows(self: DataSet, day: int) -> Iterator[Rows]:
        read.append(day)
        return original(self, day)

    monkeypatch.setattr(DataSet, "label_rows", label_rows)
    counts = DelayCounts(data)
    for day in (2, 3, 3, 4):
        counts.until(day, "order")
    assert read == [1, 2, 3]


def test_the_distribution_is_the_share_known_after_a_time(tmp_path: Path) -> None:
    found = DelayCounts(write(tmp_path / "d", [past(uniform)] * 2)).until(2, "order")
    assert found is not None
    edges, counts = found.edges, found.counts
    assert edges[0] == 0 and edges[-1] == WINDOW and (np.diff(edges) > 0).all()
    # One number before the first edge (known at once), one after the last (later than the window).
    assert len(counts) == len(edges) + 1 and counts.sum() == 1000 and counts[0] == counts[-1] == 0
    np.testing.assert_allclose(found.share(edges), edges / WINDOW, atol=0.001)


# When it is the same as `matured`


def same(data: DataSet, day: int) -> bool:
    pairs = zip(labels_of(data, day, "matured"), labels_of(data, day), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_the_first_day_has_no_past_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write(tmp_path / "d", [last_hours([12, 4], [1, 1], [1, 1]), past(uniform)])
    with caplog.at_level(logging.INFO, "distill.delay"):
        assert same(data, 1)
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert record.getMessage().startswith("delayed_labels, day 1, order: 0 matured outcomes of 1 on earlier")


@pytest.mark.parametrize("outcomes", [FEWEST - 1, FEWEST])
def test_too_few_outcomes_are_no_distribution(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, outcomes: int
) -> None:
    data = write(tmp_path / "d", [past(uniform, rows=outcomes), last_hours([4], [1], [1])])
    assert same(data, 2) == (outcomes < FEWEST)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * (outcomes < FEWEST)


def test_nothing_open(tmp_path: Path) -> None:
    data = write(tmp_path / "d", [past(uniform), past(uniform) + last_hours([8], [1], [8])])
    assert labels_of(data, 2)[1].all() and same(data, 2)


def test_without_times_of_their_own_outcomes_are_known_when_the_window_closes(tmp_path: Path) -> None:
    days = [past(uniform), last_hours([12, 7.999, 4], [1, 1, 0], [None] * 3)]
    assert same(write(tmp_path / "a", days, own_times=False), 2)
    unknown = Orders(days[0].hours, days[0].label, [None] * 1000)
    assert same(write(tmp_path / "b", [unknown, days[1]]), 2)


def test_labels_known_at_once_are_the_same_and_no_other_day_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As KuaiRand's: no windows."""
    days = [past(early), last_hours([5, 0.001], [1, 0], [0, 0])]
    data = write(tmp_path / "d", days, window=0, own_times=False)
    monkeypatch.setattr(DelayCounts, "until", lambda *_: pytest.fail("a past was asked for"))
    batches = [
        list(DayStream(data, day, 64, ("item_id",), labels=label_rule(kind, data)))
        for kind in ("matured", "weighted")
        for day in (1, 2)
    ]
    for matured, weighted in zip(batches[0] + batches[1], batches[2] + batches[3], strict=True):
        assert matured.label_mask.all()
        assert matured.labels.equal(weighted.labels) and matured.label_mask.equal(weighted.label_mask)


# Unbiased


def test_expected_target_is_the_true_label_under_the_simulators_law(tmp_path: Path) -> None:
    """At every age, half of the rows convert after the law's delays: the mean target is their rate, 1/2."""
    config = SimulatorConfig()
    assert (config.window_hours * HOUR, config.delay_hours) == (WINDOW, 1.5)

    def law(quantile: np.ndarray) -> np.ndarray:
        return _delay_ms(config, quantile) / HOUR

    ages, each = [7.9, 6.0, 4.0, 2.0, 1.0, 0.5, 0.25], 1000
    quantiles = (np.arange(each) + 0.5) / each
    today = Orders([], [], [])
    for age in ages:
        today += last_hours([age] * each, [1] * each, law(quantiles).tolist())
        today += last_hours([age] * each, [0] * each, [0.0] * each)
    data = write(tmp_path / "d", [past(law, rows=20_000), today])
    targets, mask = labels_of(data, 2)
    assert mask.all()
    np.testing.assert_allclose(targets.reshape(len(ages), -1).mean(axis=1), 0.5, rtol=0.01)
    # What is seen, taken for the truth, is not: 1 - exp(-0.25 / 1.5) of the outcomes after a quarter of an hour.
    seen = (targets > 0).reshape(len(ages), -1).mean(axis=1)
    assert seen[-1] == pytest.approx(0.5 * (1 - np.exp(-0.25 / 1.5)) / (1 - np.exp(-8 / 1.5)), rel=0.02)


# Final labels


def test_final_labels_of_simulated_data(tmp_path: Path) -> None:
    today = last_hours([9, 4, 4, 4], [1, 1, 0, None], [1, 7, 0, None])
    data = write(tmp_path / "d", [past(uniform), today], source="simulator")
    targets, mask = labels_of(data, 2, "final")
    assert targets.tolist() == [1, 1, 0, 0] and mask.tolist() == [True, True, True, False]


def test_final_labels_of_other_data_are_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "d", [past(uniform)], source="kuairand")
    message = (
        "delayed_labels: got 'final' for the source 'kuairand', allowed: matured, weighted: `final` trains"
    )
    with pytest.raises(UserError, match=message):
        label_rule("final", data)


# In a stream


def stream(data: DataSet, **options: Any) -> DayStream:
    return DayStream(data, 2, 3, ("item_id",), labels=label_rule("weighted", data), **options)


@pytest.fixture
def streamed(tmp_path: Path) -> DataSet:
    return write(
        tmp_path / "d", [past(uniform), last_hours([9, 8, 4, 4, 2, 0.1], [1, 0, 1, 1, 1, 1], [1] * 6)]
    )


def test_batches_carry_targets_and_mask(streamed: DataSet) -> None:
    first, second = stream(streamed)
    assert first.labels[:, 1].tolist() == pytest.approx([1, 0, 2], rel=0.01)
    assert second.labels[:, 1].tolist() == pytest.approx([2, 4, 0], rel=0.01)
    assert second.label_mask.tolist() == [[True, True], [True, True], [True, False]]
    assert second.labels.dtype == first.labels.dtype


@pytest.mark.parametrize("kind", ["matured", "weighted", "final"])
def test_batches_say_which_labels_are_matured_by_any_rule(tmp_path: Path, kind: Any) -> None:
    """The window of the first row has closed at the day's end, that of the second one at that moment."""
    today = last_hours([9, 8, 7.9, 4, 2], [1, 0, 1, 1, 0], [1, 8, 1, 1, 0])
    data = write(tmp_path / "d", [past(uniform), today], source="simulator")
    (batch,) = DayStream(data, 2, 5, ("item_id",), labels=label_rule(kind, data))
    assert batch.matured[:, 0].all() and batch.matured.dtype == batch.label_mask.dtype
    assert batch.matured[:, 1].tolist() == [True, True, False, False, False]
    assert batch.label_mask[:, 1].tolist() == [True, True, *[kind != "matured"] * 3]
    assert batch.labels[:2, 1].tolist() == [1, 0]
    (part,) = DayStream(data, 2, 5, ("item_id",), domains=["feed"], labels=label_rule(kind, data))
    assert part.matured[:, 1].tolist() == [True, False, False]  # rows 0, 2, 4


def test_of_the_wanted_surface(streamed: DataSet) -> None:
    (batch,) = stream(streamed, domains=["feed"])  # rows 0, 2, 4
    assert batch.labels[:, 1].tolist() == pytest.approx([1, 2, 4], rel=0.01)


def test_a_stream_without_a_rule_waits_for_matured_labels(streamed: DataSet) -> None:
    plain, asked = (
        DayStream(streamed, 2, 6, ("item_id",), labels=rule) for rule in (None, Matured(streamed.schema))
    )
    for (batch,) in (list(plain), list(asked)):
        assert batch.labels[:, 1].tolist() == [1, 0, 0, 0, 0, 0]
        assert batch.label_mask[:, 1].tolist() == [True, True, False, False, False, False]


def test_in_a_worker_process(streamed: DataSet) -> None:
    loaded = list(DataLoader(stream(streamed), batch_size=None, num_workers=1))
    assert all(a.labels.equal(b.labels) for a, b in zip(loaded, stream(streamed), strict=True))


def test_a_position_of_another_rule_is_refused(streamed: DataSet) -> None:
    state = DayStream(streamed, 2, 3, ("item_id",)).state_dict()
    with pytest.raises(DataError, match="labels: got 'matured', allowed: 'weighted'"):
        stream(streamed).load_state_dict(state)
