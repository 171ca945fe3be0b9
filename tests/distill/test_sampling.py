"""Negative sampling: which rows are kept, what a stream then holds, and what a student learns of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from distill.dataset import DataSet
from distill.delay import DelayCounts, Final, Weighted
from distill.errors import DataError, UserError
from distill.losses import label_loss, sampled_logits
from distill.sampling import NegativeSampling, mixed
from distill.sources import writer
from distill.stream import DayStream
from tests.distill.prepared_data import all_rows, day_table, small_schema, stream, write_one_day
from tests.distill.tiny_training import Tiny

HALF = NegativeSampling("click", 0.5)


def splitmix64(state: int) -> int:
    """The reference generator's first output, in whole numbers of Python (Steele, Lea & Flood 2014, figure 16)."""
    every = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & every
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & every
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & every
    return z ^ (z >> 31)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """One day of 4,000 rows in row groups of 700: three in ten clicked, every seventh click is not known."""
    random = np.random.default_rng(0)
    labels = [None if r % 7 == 0 else int(random.random() < 0.3) for r in range(4000)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "ROW_GROUP", 700)
        table = day_table(1, 4000, label_click=pa.array(labels, pa.int8()))
        return write_one_day(tmp_path_factory.mktemp("data") / "many", table)


def rows_of(data: DataSet, **options: Any) -> DayStream:
    return stream(data, batch_size=64, **options)


def outcome(data: DataSet) -> tuple[np.ndarray, np.ndarray]:
    """Ids and clicks, -1 where not known, of all rows."""
    found = data.outcomes(1)
    return found.example_id, found.labels[:, 0]


def test_the_hash_is_splitmix64() -> None:
    ids = [0, 1, 2, 99, 2**40 + 7, 2**62, -1]
    assert mixed(np.array(ids)).tolist() == [splitmix64(number % 2**64) for number in ids]
    assert mixed(np.array([0])).tolist() == [0xE220A8397B1DCDAF]  # published first output of seed 0


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999999])
def test_rows_of_consecutive_ids_are_kept_at_the_share(share: float) -> None:
    kept = NegativeSampling("click", share).keeps(np.arange(100_000), np.zeros(100_000, bool)).mean()
    assert abs(kept - share) < 4 * math.sqrt(share * (1 - share) / 100_000) + 1e-9


def test_a_larger_share_keeps_all_of_a_smaller_one() -> None:
    ids, none = np.arange(1000), np.zeros(1000, bool)
    few, more = (NegativeSampling("click", share).keeps(ids, none) for share in (0.2, 0.4))
    assert (more >= few).all() and more.sum() > few.sum()


@pytest.mark.parametrize("domains", [None, ["reels"]])
def test_the_stream_keeps_positives_and_what_the_hash_says(many: DataSet, domains: list[str] | None) -> None:
    ids, clicks = outcome(many)
    wanted = np.ones(4000, bool) if domains is None else np.arange(4000) % 2 == 1
    lucky = np.array([splitmix64(int(number)) < 2**63 for number in ids])
    expected = ids[wanted & ((clicks == 1) | lucky)]
    kept = rows_of(many, domains=domains, negatives=HALF)
    batches = list(kept)
    assert all_rows(batches, "example_id").tolist() == expected.tolist()
    assert len(batches) == len(kept) == math.ceil(len(expected) / 64)
    assert {len(batch) for batch in batches[:-1]} == {64}


def test_unknown_rows_are_sampled_whatever_their_label_will_be(many: DataSet) -> None:
    ids, clicks = outcome(many)
    kept = np.isin(ids, all_rows(list(rows_of(many, negatives=HALF)), "example_id"))
    assert kept[clicks == 1].all()
    for label in (-1, 0):
        lucky = [splitmix64(int(number)) < 2**63 for number in ids[clicks == label]]
        assert kept[clicks == label].tolist() == lucky


def test_a_label_that_is_not_matured_decides_nothing(tmp_path: Path) -> None:
    """All orders are positive, and those of the day's last 100 ms are not known when it is trained on."""
    data = write_one_day(tmp_path / "d", day_table(1, 1000, label_order=[1] * 1000))
    kept = all_rows(list(rows_of(data, negatives=NegativeSampling("order", 0.1))), "example_id") - 100_000
    late = [r for r in range(901, 1000) if splitmix64(100_000 + r) < 2**64 / 10]
    assert kept.tolist() == [*range(901), *late]
    final = stream(data, 1, 64, labels=Final(data.schema), negatives=NegativeSampling("order", 0.1))
    assert len(all_rows(list(final), "example_id")) == 1000


def test_columns_stay_with_their_rows(many: DataSet) -> None:
    every = {
        int(batch.example_id[row]): (batch.user_id[row].item(), batch.dense[row].tolist())
        for batch in rows_of(many)
        for row in range(len(batch))
    }
    for batch in rows_of(many, negatives=HALF):
        for row, number in enumerate(batch.example_id.tolist()):
            assert every[number] == (batch.user_id[row].item(), batch.dense[row].tolist())


def test_shards_share_the_kept_rows_out(many: DataSet) -> None:
    whole = all_rows(list(rows_of(many, negatives=HALF)), "example_id")
    parts = [
        all_rows(list(rows_of(many, negatives=HALF, shard=s, num_shards=2)), "example_id") for s in (0, 1)
    ]
    assert sorted(np.concatenate(parts).tolist()) == whole.tolist()


def test_resumes_in_mid_day(many: DataSet) -> None:
    first, second = (rows_of(many, negatives=HALF) for _ in range(2))
    whole = [batch.example_id.tolist() for batch in rows_of(many, negatives=HALF)]
    iterator = iter(first)
    for _ in range(11):
        next(iterator)
    second.load_state_dict(first.state_dict())
    assert [batch.example_id.tolist() for batch in second] == whole[11:]
    with pytest.raises(DataError, match="negatives: got .*0.5.*, allowed: None"):
        rows_of(many).load_state_dict(first.state_dict() | {"rows": 4000})


def test_a_day_of_which_nothing_is_kept_is_refused(tmp_path: Path) -> None:
    data = write_one_day(tmp_path / "d", day_table(1, label_click=[0] * 10))
    message = (
        r"negative_sampling: got 1e-09, which keeps none of the 5 rows of day 1 \(reels\), allowed: a larger"
    )
    with pytest.raises(DataError, match=message):
        stream(data, domains=["reels"], negatives=NegativeSampling("click", 1e-9))


def test_a_surface_without_rows_is_no_fault_of_the_sampling(tmp_path: Path) -> None:
    data = write_one_day(tmp_path / "d", day_table(1, domain=[0] * 10))
    assert len(stream(data, domains=["reels"], negatives=HALF)) == 0


def test_weighted_labels_cannot_be_sampled(many: DataSet) -> None:
    with pytest.raises(AssertionError, match="a positive not seen yet"):
        stream(many, labels=Weighted(many.schema, DelayCounts(many)), negatives=HALF)


def test_sampling_of_a_model() -> None:
    assert NegativeSampling.of(("click", "order"), 1.0) is None
    assert NegativeSampling.of(("click",), 0.25) == NegativeSampling("click", 0.25)
    with pytest.raises(
        UserError, match="negative_sampling: got 0.25 with the tasks click, order, allowed: 1, or"
    ):
        NegativeSampling.of(("click", "order"), 0.25)


def fitted(data: DataSet, share: float) -> float:
    """The probability that a student of one constant serves after training on sampled rows."""
    student = Tiny(small_schema(1))
    student.tasks, student.negative_sampling = ("click",), share
    batches = list(rows_of(data, negatives=NegativeSampling.of(student.tasks, share)))
    labels, mask = (
        torch.cat([getattr(batch, name)[:, :1] for batch in batches]) for name in ("labels", "label_mask")
    )
    served = torch.zeros((), requires_grad=True)
    newton = torch.optim.LBFGS([served], max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        newton.zero_grad()
        loss = label_loss(sampled_logits(served.expand(len(labels), 1), student), labels, mask)
        loss.backward()
        return loss

    newton.step(closure)
    return served.sigmoid().item()


@pytest.mark.parametrize("share", [1.0, 0.5, 0.2])
def test_a_constant_learnt_from_sampled_rows_is_the_rate_of_all_rows(many: DataSet, share: float) -> None:
    """The odds err by the count of kept negatives alone: binomial, n negatives of which each is kept by `share`."""
    _, clicks = outcome(many)
    positives, negatives = (clicks == 1).sum(), (clicks == 0).sum()
    rate = positives / (positives + negatives)
    deviation = math.sqrt((1 - share) / (share * negatives))  # of the odds, relative
    bound = 4 * rate * (1 - rate) * deviation + 1e-4
    assert bound < 0.04
    assert abs(fitted(many, share) - rate) < bound


def test_served_logits_start_at_the_rate_and_trained_ones_at_that_of_the_sample() -> None:
    """Of 100 positives and 900 negatives a tenth of the negatives is kept: the trained rate is 100 / 190."""
    student = Tiny(small_schema(1))
    student.negative_sampling = 0.1
    served = torch.tensor([[math.log(0.1 / 0.9)]])
    assert sampled_logits(served, student).sigmoid().item() == pytest.approx(100 / 190)


def test_without_sampling_logits_stay_what_they_are() -> None:
    logits = torch.randn(3, 1)
    assert sampled_logits(logits, Tiny(small_schema(1))) is logits
