"""Fewer of Lightning's calls inside a step, the same training."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from distill import training
from distill.lean import LeanStrategy, with_signature
from distill.module import DistillModule
from tests.distill.prepared_data import write_small
from tests.distill.tiny_training import Own, Tiny, changed, one_by_one, state, train


@pytest.mark.parametrize("clip_norm", [0.0, 0.01])
def test_trains_as_lightning_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip_norm: float
) -> None:
    data = write_small(tmp_path / "small", days=4)
    states, means = [], []
    for strategy in (LeanStrategy, SingleDeviceStrategy):
        monkeypatch.setattr(training, "LeanStrategy", strategy)
        model = Tiny(data.schema, dropout=0.1)
        _, reports = train(model, data, one_by_one(3), [Own()], clip_norm=clip_norm)
        states.append(state(model))
        means.append([report.means for report in reports])
    assert not changed(*states)
    assert means[0] == means[1]


def test_a_batch_goes_to_the_device_by_its_own_to() -> None:
    class Sent:
        def to(self, device: torch.device) -> torch.device:
            return device

    strategy = LeanStrategy(torch.device("cpu"))
    assert strategy.batch_to_device(Sent()) == torch.device("cpu")
    assert strategy.batch_to_device(Sent(), torch.device("meta")) == torch.device("meta")


def test_the_signature_is_the_functions_own() -> None:
    def add(self: object, first: int, second: int = 2) -> int:
        return first + second

    plain = inspect.getfullargspec(add)
    assert inspect.getfullargspec(with_signature(add)) == plain
    assert inspect.getfullargspec(DistillModule.training_step).args == ["self", "batch", "index"]
