"""A bank equals its members trained one by one through the real trainer."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from distill.dataset import DataSet
from tests.students.bank_training import One, fit_alone, fit_bank, make, state_of, write_days
from tests.students.models import POOLED

AH, SINGLE = {"ah": {"weight": 0.5}}, {"single": {"weight": 0.25}}
SEEDS = [One(seed) for seed in (0, 1, 2)]
SETTINGS = [
    One(0, {}, {"learning_rate": 0.02}),
    One(0, {}, {"learning_rate": 0.005, "table_learning_rate": 0.3}),
    One(1, {}, {"weight_decay": 0.1}),
    One(2, {}, {"clip_norm": 0.05}),
    One(3, {}, {"clip_norm": 0.5, "weight_decay": 0.1, "table_learning_rate": 0.0}),
]
CHANNELS = [
    One(0),
    One(0, AH),
    One(1, {"ah": {"weight": 2.0}}, {"clip_norm": 0.1}),
    One(1, SINGLE),
    One(2, AH | {"single": {"weight": 3.0}}),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return write_days(tmp_path_factory.mktemp("data") / "small")


def check(
    kind: str, data: DataSet, members: list[One], double: bool, near: dict[str, Any], **options: Any
) -> None:
    """State and predictions of every member, in the bank and alone."""
    makes = [partial(make, kind, data, one, double, **options) for one in members]
    bank, memories = fit_bank(makes, data, double)
    assert bank.frozen == {}
    for place, made in enumerate(makes):
        member = made()
        start = {name: tensor.clone() for name, tensor in state_of(member).items()}
        alone = fit_alone(member, data, double)
        expected, found = state_of(member), bank.export(place)
        assert found.keys() == expected.keys()
        assert not torch.equal(start["heads.weight"], expected["heads.weight"])
        for name, tensor in expected.items():
            assert torch.allclose(found[name], tensor, **near), name
        for day, logits in alone.days.items():
            torch.testing.assert_close(memories[place].days[day], logits, **near)


EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}
ROUNDED: dict[str, Any] = {"rtol": 1e-3, "atol": 5e-5}
FORMS: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in POOLED),
    *((kind, {"history_length": 4}) for kind in POOLED),
    ("deepfm", {"history_length": 4, "history_pooling": "sum"}),
    ("deepfm", {"dense_features": ()}),
    ("dcn_v2", {"cross_rank": 2, "structure": "stacked"}),
    ("dcn_v2", {"cross_rank": 0}),
    ("dlrm", {"bottom": []}),
    ("din", {"history_length": 4}),
    ("din", {"history_length": 4, "attention": [5, 3], "softmax": True, "event_context": False}),
]


@pytest.mark.parametrize(("kind", "options"), FORMS)
def test_every_architecture_in_double_precision(data: DataSet, kind: str, options: dict[str, Any]) -> None:
    check(kind, data, SEEDS, True, EXACT, **options)


@pytest.mark.parametrize("members", [SETTINGS, CHANNELS], ids=["settings", "channels"])
@pytest.mark.parametrize("double", [True, False], ids=["double", "single"])
def test_members_with_settings_of_their_own(data: DataSet, members: list[One], double: bool) -> None:
    check("deepfm", data, members, double, EXACT if double else ROUNDED, history_length=4)


@pytest.mark.parametrize("loss", ["bce", "mse_logit", "mse_probability", "pairwise", "listwise"])
def test_every_kind_of_distillation_in_double_precision(data: DataSet, loss: str) -> None:
    settings = {"loss": loss, "hidden": [3], "beta": 0.5, "task_weights": {"order": 0.5}}
    if loss in ("bce", "mse_probability"):
        settings["alpha"] = 1.5
    members = [One(0, {"ah": settings}), One(1), One(2, {"ah": settings | {"weight": 2.0}})]
    check("deepfm", data, members, True, EXACT)
