"""Training over days: each is predicted before it is trained on, by one optimiser, the same bits every time."""

from __future__ import annotations

import io
import re
import signal
import time

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from distill import module as distill_module
from distill import training
from distill.batch import Batch
from distill.config import OptimizerConfig
from distill.dataset import DataSet
from distill.flops import Flops
from distill.module import DistillModule
from distill.peak import peak_flops
from distill.progress import PlainProgress
from distill.schedule import DayPlan
from distill.seeding import seeded
from distill.training import DayCallback, DayData, fit, predict
from tests.distill.prepared_data import write_small
from tests.distill.tiny_training import (
    WIDTH,
    Memory,
    Tiny,
    changed,
    days_of,
    one_by_one,
    state,
    train,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Four days of 10 rows."""
    return write_small(tmp_path_factory.mktemp("data") / "small", days=4)


def in_order(data: DataSet, plan: DayPlan) -> list[tuple[str, int]]:
    """What happened, day by day: trained, ended, predicted; repetitions of one day left out."""
    happened: list[tuple[str, int]] = []

    def note(what: str, day: int) -> float:
        if happened[-1:] != [(what, day)]:
            happened.append((what, day))
        return 0.0

    def watch(batch: Batch, training: bool) -> float:
        return note("trained" if training else "predicted", batch.day)

    def end(day: int) -> None:
        note("ended", day)

    train(Tiny(data.schema, watch=watch), data, plan, after_day=end)
    return happened


def test_every_day_is_predicted_before_it_is_trained_on(data: DataSet) -> None:
    expected = [("trained", 1), ("ended", 1), ("predicted", 2)]
    expected += [("trained", 2), ("ended", 2), ("predicted", 3)]
    expected += [("trained", 3), ("ended", 3), ("predicted", 4)]
    assert in_order(data, one_by_one(4)) == expected


def test_frozen_model_predicts_the_rest_of_the_days(data: DataSet) -> None:
    expected = [("trained", 1), ("ended", 1), ("predicted", 2), ("trained", 2), ("ended", 2)]
    expected += [("predicted", 3), ("predicted", 4)]
    assert in_order(data, DayPlan((1, 2), {1: (2,), 2: (3, 4)})) == expected


def test_day_after_which_nothing_is_predicted(data: DataSet) -> None:
    expected = [("trained", 1), ("ended", 1), ("trained", 3), ("ended", 3), ("predicted", 4)]
    assert in_order(data, DayPlan((1, 3), {1: (), 3: (4,)})) == expected


def test_predictions_are_those_of_the_day_before(data: DataSet) -> None:
    snapshots: dict[int, dict[str, Tensor]] = {}
    model = Tiny(data.schema)
    memory, _ = train(model, data, one_by_one(4), after_day=lambda day: snapshots.update({day: state(model)}))
    assert changed(snapshots[1], snapshots[2]) and changed(snapshots[2], snapshots[3])
    for day, logits in memory.days.items():
        fresh = Tiny(data.schema, seed=9)
        fresh.load_state_dict(snapshots[day - 1])
        expected = torch.cat([fresh(batch).logits for batch in days_of(data)(day, False)])
        assert torch.equal(logits, expected.detach())


def plain_loop(data: DataSet, days: range, dropout: float = 0.0) -> Tiny:
    """The same training written out: one Adam for all days, labels' cross-entropy."""
    model = Tiny(data.schema, dropout=dropout)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05, fused=True)
    for day in days:
        for batch in days_of(data)(day, True):
            optimizer.zero_grad()
            weights = batch.label_mask / batch.label_mask.sum(0).clamp_min(1)
            logits = model(batch).logits
            functional.binary_cross_entropy_with_logits(
                logits, batch.labels, weight=weights, reduction="sum"
            ).backward()
            optimizer.step()
    return model


def test_one_optimiser_goes_through_all_days(data: DataSet) -> None:
    model = Tiny(data.schema)
    train(model, data, one_by_one(4))
    assert changed(state(plain_loop(data, range(1, 4))), state(model)) == set()


def test_counting_flops_takes_no_random_number(data: DataSet) -> None:
    model = Tiny(data.schema, dropout=0.3)
    train(model, data, one_by_one(4))
    with seeded(0, "training"):
        plain = plain_loop(data, range(1, 4), dropout=0.3)
    assert changed(state(plain), state(model)) == set()


def trained(data: DataSet, seed: int) -> tuple[dict[str, Tensor], Memory]:
    model = Tiny(data.schema, seed=seed, dropout=0.3)
    memory, _ = train(model, data, one_by_one(4))
    return state(model), memory


def test_same_seed_gives_the_same_bits(data: DataSet) -> None:
    torch.manual_seed(1)
    first, memory = trained(data, seed=0)
    torch.manual_seed(2)
    second, again = trained(data, seed=0)
    assert changed(first, second) == set()
    assert all(torch.equal(logits, again.days[day]) for day, logits in memory.days.items())


def test_other_seeds_give_other_models(data: DataSet) -> None:
    first, second = trained(data, seed=0)[0], trained(data, seed=1)[0]
    assert changed(first, second) == {name for name in first if not first[name].eq(0).all()}


def test_predicting_trains_nothing_and_drops_nothing_out(data: DataSet) -> None:
    model, memory = Tiny(data.schema, dropout=0.5), Memory()
    before = state(model)
    predict(
        DistillModule(model, {}, OptimizerConfig(), memory), [days_of(data)(day, False) for day in (2, 4)]
    )
    assert changed(before, state(model)) == set()
    model.eval()
    for day in (2, 4):
        expected = torch.cat([model(batch).logits for batch in days_of(data)(day, False)])
        assert torch.equal(memory.days[day], expected.detach())


def test_reports_count_examples_and_time(data: DataSet) -> None:
    _, reports = train(Tiny(data.schema), data, one_by_one(4))
    assert [(report.day, report.examples_seen) for report in reports] == [(1, 10), (2, 20), (3, 30)]
    assert all(report.seconds > 0 and report.cpu_seconds > 0 for report in reports)


def test_reports_tell_speed_and_flops(data: DataSet) -> None:
    _, reports = train(Tiny(data.schema), data, one_by_one(3))
    weights = 8 * WIDTH + WIDTH * 2  # Tiny's two layers; 2 FLOPs forward, 4 backward each
    peak = peak_flops(torch.device("cpu"), "fp32")
    assert peak is not None
    for report in reports:
        assert report.examples_per_s == pytest.approx(10 / report.seconds)
        assert report.flops_per_example == 6 * weights
        assert report.flops == pytest.approx(10 * 6 * weights)
        assert report.mfu == pytest.approx(report.flops / report.seconds / peak)


@pytest.mark.parametrize("history", [0, 4])
def test_flops_are_counted_in_the_middle_of_the_day(
    data: DataSet, history: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every day with growing histories, else of the first."""
    counted: list[tuple[int, int]] = []

    def note(model: Tiny, batch: Batch) -> Flops:
        counted.append((batch.day, int(batch.example_id[0])))
        return Flops(forward=8, backward=12, examples=len(batch), events=0)

    monkeypatch.setattr(distill_module, "count", note)
    model = Tiny(data.schema)
    model.history_length = history
    _, reports = train(model, data, one_by_one(3))
    assert counted == [(1, 100_004), (2, 200_004)][: 2 if history else 1]  # the second of three batches
    assert [report.flops_per_example for report in reports] == [5, 5]


def test_time_of_counting_is_left_out(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(model: Tiny, batch: Batch) -> Flops:
        time.sleep(0.5)
        return Flops(forward=1, backward=1, examples=1, events=0)

    monkeypatch.setattr(distill_module, "count", slow)
    began = time.perf_counter()
    _, reports = train(Tiny(data.schema), data, one_by_one(2))
    assert reports[0].seconds < time.perf_counter() - began - 0.5


def test_without_a_known_peak_there_is_no_mfu(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "peak_flops", lambda device, precision: None)
    _, reports = train(Tiny(data.schema), data, one_by_one(2))
    assert reports[0].mfu is None and reports[0].flops_per_example > 0


def test_the_last_line_of_a_day_tells_ne_and_mfu(data: DataSet) -> None:
    lines = io.StringIO()
    module = DistillModule(Tiny(data.schema), {}, OptimizerConfig(), Memory())
    callback = DayCallback(one_by_one(2), PlainProgress(lines), {1: 10}, "tiny")
    fit(module, DayData(days_of(data), one_by_one(2)), callback)
    assert re.fullmatch(
        r"tiny day 1: 10 examples in .* examples/s\), NE \d\.\d+, MFU \d+\.\d %\n", lines.getvalue()
    )


def fit_and_break(data: DataSet, error: BaseException) -> str:
    """What the progress lines say when `error` comes up in the second batch of day 2."""

    def watch(batch: Batch, training: bool) -> float:
        if training and batch.example_id[0] == 200_004:
            raise error
        return 0.0

    lines, plan = io.StringIO(), one_by_one(4)
    callback = DayCallback(plan, PlainProgress(lines), {1: 10, 2: 10}, "tiny")
    module = DistillModule(Tiny(data.schema, watch=watch), {}, OptimizerConfig(), Memory())
    with pytest.raises(type(error)):
        fit(module, DayData(days_of(data), plan), callback)
    return lines.getvalue()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken")], ids=["Ctrl-C", "error"])
def test_what_stops_a_training_reaches_the_caller(data: DataSet, error: BaseException) -> None:
    handler = signal.getsignal(signal.SIGINT)
    first, second = fit_and_break(data, error).splitlines()
    assert first.startswith("tiny day 1: 10 examples") and second.startswith(
        "tiny day 2: stopped, 4 examples"
    )
    assert signal.getsignal(signal.SIGINT) is handler


def test_lightning_says_nothing(
    data: DataSet, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    train(Tiny(data.schema), data, one_by_one(3))
    predict(DistillModule(Tiny(data.schema), {}, OptimizerConfig(), Memory()), [days_of(data)(2, False)])
    assert capfd.readouterr() == ("", "") and not recwarn.list
