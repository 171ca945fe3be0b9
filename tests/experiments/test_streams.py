"""Which rows a model's stream of a day holds: of other surfaces, and how negatives are sampled among them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distill.batch import Batch
from distill.config import ScheduleConfig
from distill.dataset import DataSet
from distill.schedule import Schedule
from distill.sources.writer import PreparedWriter
from experiments.pipeline.streams import streams
from experiments.pipeline.supply import OtherRows, Supply
from tests.distill.prepared_data import all_rows, day_table, small_schema
from tests.distill.tiny_training import Tiny

ROWS, SHARE = 4000, 0.1
DAYS: dict[str, Any] = {"tune_days": [4], "test_days": [], "lag": 0}


@dataclass
class Opened:
    """What streams read of an experiment."""

    data: DataSet
    schedule: Schedule


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Four days; feed and reels in turns, clicks of about two in five on feed and one in five on reels."""
    random, folder = np.random.default_rng(0), tmp_path_factory.mktemp("data") / "streams"
    with PreparedWriter(folder, small_schema(4), source="test", fingerprint="f" * 64) as writer:
        for day in range(1, 5):
            clicks = random.random(ROWS) < np.where(np.arange(ROWS) % 2 == 0, 0.4, 0.2)
            writer.write_day(day, day_table(day, ROWS, label_click=pa.array(clicks.astype(np.int8))))
    return DataSet.open(folder)


def stream(data: DataSet, day: int, others: OtherRows, sampling: float = SHARE, **schedule: Any) -> Any:
    """A day that a student of reels' clicks trains on, with a tenth of the negatives."""
    student = Tiny(data.schema)
    student.tasks, student.negative_sampling = ("click",), sampling
    days = Schedule(ScheduleConfig(**(DAYS | schedule)), n_days=4)
    opened: Any = Opened(data, days)
    return streams(opened, student, 64, ["reels"], Supply(other_rows=others))(day, True)


def of_day(data: DataSet, day: int, others: OtherRows, *sampling: float, **schedule: Any) -> list[Batch]:
    return list(stream(data, day, others, *sampling, **schedule))


def below(example_id: int, share: float) -> bool:
    """The reference generator's first output (Steele, Lea & Flood 2014), in whole numbers of Python."""
    every = 2**64 - 1
    z = (example_id + 0x9E3779B97F4A7C15) & every
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & every
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & every
    return (z ^ (z >> 31)) < share * 2**64


def rows(data: DataSet, day: int, domain: int) -> list[tuple[int, bool]]:
    """Ids and clicks of a surface."""
    found = data.outcomes(day)
    mine = found.domain == domain
    pairs = zip(found.example_id[mine].tolist(), found.labels[mine, 0].tolist(), strict=True)
    return [(example_id, click == 1) for example_id, click in pairs]


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_other_rows_are_sampled_as_its_own_where_their_labels_teach(data: DataSet, share: float) -> None:
    """Of others every positive of the share and a tenth of its negatives; of its own as ever."""
    batches = of_day(data, 2, OtherRows(("feed",), share, labels=True))
    others = [i for i, click in rows(data, 2, 0) if below(i, share if click else share * SHARE)]
    own = [i for i, click in rows(data, 2, 1) if click or below(i, SHARE)]
    for is_own, expected in ((False, others), (True, own)):
        part = [batch for batch in batches if batch.own == is_own]
        assert all_rows(part, "example_id").tolist() == expected


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_constant_learnt_from_others_labels_is_their_rate(data: DataSet, share: float) -> None:
    """Cross-entropy is least at the odds of the kept rows, and serving takes log r from their logarithm again. They
    err by the count of kept rows: binomial, of each kind.
    """
    batches = [batch for batch in of_day(data, 2, OtherRows(("feed",), share, labels=True)) if not batch.own]
    clicks = np.concatenate([batch.labels[batch.label_mask[:, 0], 0].numpy() for batch in batches])
    served = math.log(clicks.sum() / (len(clicks) - clicks.sum())) + math.log(SHARE)
    feed = [click for _, click in rows(data, 2, 0)]
    true = math.log(sum(feed) / (len(feed) - sum(feed)))
    deviation = math.sqrt(1 / (len(clicks) - clicks.sum()) + (1 / share - 1) / sum(feed))
    assert abs(served - true) < 4 * deviation < 0.6 < abs(math.log(SHARE)) / 2


@pytest.mark.parametrize("done", [0, 3, 8, 9])
def test_goes_on_where_it_stopped(data: DataSet, done: int) -> None:
    """The eight batches of others are about 400 positives and 60 negatives."""
    others = OtherRows(("feed",), 0.5, labels=True)
    whole = [(batch.own, batch.example_id.tolist()) for batch in of_day(data, 2, others)]
    assert [own for own, _ in whole].index(True) == 8
    first, second = stream(data, 2, others), stream(data, 2, others)
    batches = iter(first)
    for _ in range(done):
        next(batches)
    second.load_state_dict(first.state_dict())
    assert [(batch.own, batch.example_id.tolist()) for batch in second] == whole[done:]


def test_other_rows_without_labels_are_not_sampled(data: DataSet) -> None:
    batches = of_day(data, 2, OtherRows(("feed",), 1.0, labels=False))
    others = [batch for batch in batches if not batch.own]
    assert all_rows(others, "example_id").tolist() == [example_id for example_id, _ in rows(data, 2, 0)]
    assert not any(bool(batch.label_mask.any()) for batch in others)


def test_a_day_of_which_no_other_row_is_kept_is_trained_on_its_own(tmp_path: Path) -> None:
    """Nothing is clicked on feed and all on reels, and one negative in a thousand million is kept."""
    with PreparedWriter(tmp_path / "d", small_schema(4), source="test", fingerprint="f" * 64) as writer:
        for day in range(1, 5):
            writer.write_day(day, day_table(day, label_click=[0, 1] * 5))
    batches = of_day(DataSet.open(tmp_path / "d"), 2, OtherRows(("feed",), 1.0, labels=True), 1e-9)
    assert [batch.own for batch in batches] == [True]


def test_other_rows_are_read_on_days_that_are_logged(data: DataSet) -> None:
    """At lag 0 the snapshot of day 1 could log day 2, which no student reads when they begin on day 3."""
    others = OtherRows(("feed",), 1.0, labels=False)
    begins = {day: of_day(data, day, others, student_first_day=3)[0].own for day in (1, 2, 3)}
    assert begins == {1: True, 2: True, 3: False}
