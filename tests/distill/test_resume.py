"""A training that was stopped goes on from its newest checkpoint, and ends as if nothing had happened."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from distill.batch import Batch
from distill.checkpoints import Checkpoints, CheckpointStore
from distill.config import CheckpointConfig, OptimizerConfig
from distill.dataset import DataSet
from distill.day_data import Days
from distill.delay import Unlabelled
from distill.module import DistillModule
from distill.other_surfaces import OthersFirst
from distill.schedule import DayPlan
from distill.seeding import seeded
from distill.training import DayCallback, DayData, DayReport, fit
from tests.distill.prepared_data import stream, write_small
from tests.distill.tiny_training import Memory, Own, Silence, Tiny, changed, days_of, one_by_one, state

PLAN = one_by_one(4)
STEPS = 9
"""Three days of three batches; each next day is predicted in three batches as well."""
BATCHES = 2 * STEPS + 1
"""Read in all: FLOPs are counted on one that is read again."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Four days of 10 rows."""
    return write_small(tmp_path_factory.mktemp("data") / "small", days=4)


class Kept(Memory):
    """A memory that has a state."""

    def state_dict(self) -> dict[str, Any]:
        return {"days": dict(self.days)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.days = dict(state_dict["days"])


@dataclass
class Trained:
    """What a training leaves: parameters, tables and moments, predictions, reports, examples read by this process."""

    parameters: dict[str, Tensor]
    predicted: dict[int, Tensor]
    reports: list[DayReport]
    read: list[tuple[int, bool]]

    def assert_same(self, other: Trained) -> None:
        assert changed(self.parameters, other.parameters) == set()
        assert (
            changed(
                {str(day): logits for day, logits in self.predicted.items()},
                {str(day): logits for day, logits in other.predicted.items()},
            )
            == set()
        )
        assert [(r.day, r.examples_seen, r.means, r.flops_per_example) for r in self.reports] == [
            (r.day, r.examples_seen, r.means, r.flops_per_example) for r in other.reports
        ]


class Killed(BaseException):
    """Nobody catches it: nothing is put in order."""


def train(
    data: DataSet,
    folder: Path | None,
    every_batches: int = 0,
    plan: DayPlan = PLAN,
    at: Callable[[int], None] = lambda calls: None,
    days: Days | None = None,
    share: float = 0.0,
) -> Trained:
    """Train with dropout and a channel; `at` is called with the number of batches read so far, before each.

    `days` replaces the streams of all rows, and `share` is what the channel asks for of other surfaces' rows.
    """
    read: list[tuple[int, bool]] = []

    def watch(batch: Batch, training: bool) -> float:
        at(len(read))
        read.append((batch.day, training))
        return 0.0

    model, memory, channel = Tiny(data.schema, dropout=0.3, watch=watch), Kept(), Own()
    channel.other_surfaces = share
    channel.attach(model)
    module = DistillModule(model, {"own": channel}, OptimizerConfig(learning_rate=0.05), memory)
    checkpoints = None
    if folder is not None:
        config = CheckpointConfig(every_minutes=0, every_batches=every_batches)
        checkpoints = Checkpoints(CheckpointStore(folder, {"plan": plan.train}, keep=2), config)
    with seeded(0, "training"):
        callback = DayCallback(plan, Silence(), {}, "tiny")
        reports = fit(module, DayData(days or days_of(data), plan), callback, checkpoints)
    parameters = state(model) | {f"own.{name}": tensor for name, tensor in state(channel).items()}
    return Trained(parameters, memory.days, reports, read)


def kill_before(batch: int) -> Callable[[int], None]:
    def at(calls: int) -> None:
        if calls == batch:
            raise Killed

    return at


@pytest.fixture(scope="module")
def undisturbed(data: DataSet) -> Trained:
    return train(data, None)


@pytest.mark.parametrize(
    ("every", "batch", "left"),
    [
        (1, 2, 17 + 1),  # before the second step; the batch that FLOPs are counted on is read again
        (2, 4, 1 + 15),  # while the second day is predicted; saved after two of three steps
        (1, 4, 15),  # the same, saved after all three
        (1, 17, 3),  # while the last day is predicted: only that is left
    ],
)
def test_killed_before_a_batch(
    data: DataSet, tmp_path: Path, undisturbed: Trained, every: int, batch: int, left: int
) -> None:
    with pytest.raises(Killed):
        train(data, tmp_path, every, at=kill_before(batch))
    torch.manual_seed(batch)  # whatever the next process begins with
    resumed = train(data, tmp_path, every)
    assert len(resumed.read) == left
    resumed.assert_same(undisturbed)


def test_killed_again_and_again(data: DataSet, tmp_path: Path, undisturbed: Trained) -> None:
    for batch in (5, 3, 4):
        with pytest.raises(Killed):
            train(data, tmp_path, 1, at=kill_before(batch))
    train(data, tmp_path, 1).assert_same(undisturbed)


def test_several_days_after_one_are_predicted_anew(data: DataSet, tmp_path: Path) -> None:
    plan = DayPlan((1, 2), {1: (2,), 2: (3, 4)})
    with pytest.raises(Killed):
        train(data, tmp_path, 1, plan, kill_before(14))  # in the last day
    resumed = train(data, tmp_path, 1, plan)
    assert {day for day, _ in resumed.read} == {3, 4}
    resumed.assert_same(train(data, None, plan=plan))


def test_day_after_which_nothing_is_predicted(data: DataSet, tmp_path: Path) -> None:
    plan = DayPlan((1, 3), {1: (), 3: (4,)})
    with pytest.raises(Killed):
        train(data, tmp_path, 3, plan, kill_before(5))
    train(data, tmp_path, 3, plan).assert_same(train(data, None, plan=plan))


def with_others(data: DataSet) -> Days:
    """Of each day trained on two batches of feed, without labels, and then two of reels; predicted are the latter."""

    def days(day: int, training: bool) -> IterableDataset:
        own = stream(data, day, domains=["reels"])
        if not training:
            return own
        return OthersFirst(
            stream(data, day, domains=["feed"], labels=Unlabelled(data.schema), own=False), own
        )

    return days


@pytest.mark.parametrize("batch", [1, 2, 3, 8, 9, 14])
def test_killed_among_other_surfaces_rows_or_its_own(data: DataSet, tmp_path: Path, batch: int) -> None:
    """A day takes six batches: two of others, two of its own, two predicted."""
    whole = train(data, None, days=with_others(data), share=1.0)
    assert len(whole.read) == 18 + 1  # the batch that FLOPs are counted on is read twice
    with pytest.raises(Killed):
        train(data, tmp_path, 1, at=kill_before(batch), days=with_others(data), share=1.0)
    train(data, tmp_path, 1, days=with_others(data), share=1.0).assert_same(whole)


@pytest.fixture
def interrupted_by_sigterm() -> Iterator[None]:
    """As `distill run` has it."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("interrupted_by_sigterm")
@pytest.mark.parametrize(
    ("number", "batch"), [(signal.SIGINT, 5), *((signal.SIGTERM, batch) for batch in range(1, BATCHES))]
)
def test_signal_saves_and_stops(
    data: DataSet, tmp_path: Path, undisturbed: Trained, number: int, batch: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path, at=lambda calls: signal.raise_signal(number) if calls == batch else None)
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(list(tmp_path.glob("step-*"))) == 1
    train(data, tmp_path).assert_same(undisturbed)


@pytest.mark.usefixtures("interrupted_by_sigterm")
@pytest.mark.parametrize(
    "too_late",
    [
        False,  # to stop before the end, but the state is saved
        True,  # even for that: what is trained next would be stopped instead, or nothing
    ],
)
def test_signal_after_the_last_prediction(
    data: DataSet, tmp_path: Path, undisturbed: Trained, monkeypatch: pytest.MonkeyPatch, too_late: bool
) -> None:
    end = Checkpoints.on_train_end

    def signalled(checkpoints: Checkpoints, trainer: L.Trainer, module: L.LightningModule) -> None:
        if too_late:
            end(checkpoints, trainer, module)
        signal.raise_signal(signal.SIGTERM)
        if not too_late:
            end(checkpoints, trainer, module)

    with monkeypatch.context() as change, pytest.raises(KeyboardInterrupt):
        change.setattr(Checkpoints, "on_train_end", signalled)
        train(data, tmp_path)
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    assert len(list(tmp_path.glob("step-*"))) == (0 if too_late else 1)
    train(data, tmp_path).assert_same(undisturbed)


def test_second_ctrl_c_does_not_wait(data: DataSet, tmp_path: Path) -> None:
    def twice(calls: int) -> None:
        if calls == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path, at=twice)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("interrupted_by_sigterm")
def test_second_sigterm_waits_for_the_state(data: DataSet, tmp_path: Path) -> None:
    def twice(calls: int) -> None:
        if calls == 2:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path, at=twice)
    assert len(list(tmp_path.glob("step-*"))) == 1


def test_generators_go_on(data: DataSet, tmp_path: Path) -> None:
    drawn: list[float] = []

    def draw(calls: int) -> None:
        drawn.append(np.random.random())
        if calls == 3:
            raise Killed

    np.random.seed(0)
    with pytest.raises(Killed):
        train(data, tmp_path, 2, at=draw)
    np.random.seed(9)
    expected = np.random.RandomState(0).random(4)
    drawn_again: list[float] = []
    train(data, tmp_path, 2, at=lambda calls: drawn_again.append(np.random.random()))
    assert np.allclose(drawn, expected, rtol=0, atol=0)
    # Two steps and the count of FLOPs were before the checkpoint; what comes next was drawn once already.
    assert drawn_again[0] == drawn[3]


def test_checkpoint_of_other_code_is_refused(data: DataSet, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(data, tmp_path, 1, at=kill_before(2))
    model = Tiny(data.schema)  # without the channel
    module = DistillModule(model, {}, OptimizerConfig(), Kept())
    checkpoints = Checkpoints(CheckpointStore(tmp_path, {"plan": PLAN.train}, 2), CheckpointConfig())
    with pytest.raises(ValueError, match=r"does not fit the model \(channels own\).*Remove"):
        fit(module, DayData(days_of(data), PLAN), DayCallback(PLAN, Silence(), {}, "tiny"), checkpoints)


def test_time_between_two_checkpoints_grows_with_their_cost(data: DataSet, tmp_path: Path) -> None:
    config = CheckpointConfig(every_minutes=1e-9, every_batches=0)
    store = CheckpointStore(tmp_path, {}, keep=STEPS)
    model, callback = Tiny(data.schema), DayCallback(PLAN, Silence(), {}, "tiny")
    module = DistillModule(model, {}, OptimizerConfig(), Kept())
    fit(module, DayData(days_of(data), PLAN), callback, Checkpoints(store, config))
    # The first is due at once; a step takes far less than twenty times what it took to write.
    assert len(list(tmp_path.glob("step-*"))) == 1
