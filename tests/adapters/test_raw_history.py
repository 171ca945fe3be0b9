"""The control `rawid`: the encoders of `repr` on the student's own embeddings of the history's items."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from adapters.representation_config import RawHistoryConfig
from distill.batch import Batch, Past
from distill.errors import UserError
from experiments.benchmarks.synthetic import make_batch
from students.base import Student
from tests.adapters.built_students import DIM, KINDS, SCHEMA, built, given, items, optimized, train
from tests.adapters.past_data import DAY, Array, array, encoded, scramble

ENCODERS = ("mean", "sum", "din", "target_attention")
LENGTHS = [2, 0, 1, 4, 3]


def batch_of(seed: int = 0, lengths: list[int] | None = None) -> Batch:
    """Histories of some days before the examples."""
    batch = make_batch(SCHEMA, LENGTHS if lengths is None else lengths, seed)
    assert batch.history is not None
    time = DAY * torch.arange(1, len(batch.history.time) + 1)
    return replace(batch, timestamp=batch.timestamp + 20 * DAY, history=replace(batch.history, time=time))


def field_by_hand(student: Student, batch: Batch, encoder: str, length: int) -> Array:
    """The field [B, DIM] of the last `length` events of every example."""
    module: Any = student.event_inputs["rawid"]
    history = batch.history
    assert history is not None
    table, context = array(student.tables.export()["item_id.weight"])[:, :DIM], array(module.context)
    tasks = len(SCHEMA.tasks)
    vectors, times, lengths = [], [], []
    offsets = history.offsets.tolist()
    for start, end in zip(offsets, offsets[1:], strict=False):
        places = range(max(start, end - length), end)
        lengths.append(len(places))
        for event in places:
            vector = table[int(history.item[event])] + context[int(history.domain[event])]
            for task, label in enumerate(history.labels[event].tolist()):
                if label >= 0:
                    vector = vector + context[len(SCHEMA.domains) + task + (0 if label else tasks)]
            vectors.append(vector)
            times.append(int(history.time[event]))
    values = torch.from_numpy(np.stack(vectors))
    past = Past(torch.tensor([0, *lengths]).cumsum(0), values, torch.tensor(times))
    item = array(items(student, batch))
    return encoded(module.encoder, encoder, past, batch.timestamp, item, length)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_field_of_the_students_own_embeddings(kind: str, encoder: str) -> None:
    student, channels = built(kind, {"rawid": {"encoder": encoder, "history_length": 4}})
    assert channels["rawid"].fields == ("rawid.user",) and channels["rawid"].history_length == 4
    scramble(student.event_inputs)
    batch = batch_of()
    expected = field_by_hand(student, batch, encoder, 4)
    np.testing.assert_allclose(array(given(student, batch))[:, 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("own", "asked"), [(2, 3), (4, 4), (6, 6)])
def test_beside_a_history_of_the_students_own(kind: str, own: int, asked: int) -> None:
    student, _ = built(kind, {"rawid": {"encoder": "sum", "history_length": 3}}, history_length=own)
    assert student.history_length == asked
    scramble(student.event_inputs)
    batch = batch_of(lengths=[min(length, asked) for length in (2, 0, 5, 4, 3)])
    expected = field_by_hand(student, batch, "sum", 3)
    np.testing.assert_allclose(array(given(student, batch))[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_history_is_asked_for_only_by_who_reads_it() -> None:
    assert built("deepfm", {"rawid": {"history_length": 9}})[0].history_length == 9
    assert built("deepfm", {})[0].history_length == 0
    assert built("deepfm", {"repr": {}})[0].history_length == 0


def test_it_has_the_encoder_of_repr() -> None:
    of_raw: Any = built("deepfm", {"rawid": {}})[0].event_inputs["rawid"]
    of_stored: Any = built("deepfm", {"repr": {"dim": DIM}})[0].inputs["repr"]
    shapes = {name: p.shape for name, p in of_raw.encoder.named_parameters()}
    assert shapes == {name: p.shape for name, p in of_stored.encoders["user"].named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_students_optimizer_trains_the_field_exactly_once(kind: str) -> None:
    student, channels = built(kind, {"rawid": {"history_length": 4}})
    held = [id(parameter) for parameter in optimized(student, channels)]
    fields = dict(student.event_inputs.named_parameters())
    assert fields and not list(channels["rawid"].parameters())
    assert [held.count(id(parameter)) for parameter in fields.values()] == [1] * len(fields)
    before = {name: parameter.detach().clone() for name, parameter in fields.items()}
    train(student, channels, [batch_of(seed) for seed in range(4)])
    assert [name for name, value in fields.items() if torch.equal(before[name], value)] == []


def test_items_of_the_history_are_learnt_from() -> None:
    student, channels = built("dlrm", {"rawid": {"history_length": 4}})
    batch = batch_of()
    assert batch.history is not None
    past, present = set(batch.history.item.tolist()), set(batch.sparse["item_id"].values().tolist())
    before = student.tables.export()["item_id.weight"]
    train(student, channels, [batch])
    moved = (student.tables.export()["item_id.weight"] != before).any(1).nonzero()[:, 0].tolist()
    assert past - present and set(moved) == past | present


def test_loss_is_nothing_and_says_how_many_have_no_past() -> None:
    student, channels = built("deepfm", {"rawid": {}})
    batch = batch_of()
    loss, logs = channels["rawid"].loss(student(batch), batch, student)
    assert loss.item() == 0 and not loss.requires_grad and not channels["rawid"].touches_serving_head
    assert logs["without_user_past"].item() == pytest.approx(0.2)


def test_nobody_has_a_past() -> None:
    student, channels = built("deepfm", {"rawid": {"history_length": 4}})
    batch = batch_of(lengths=[0, 0, 0])
    field: Any = student.event_inputs["rawid"]
    assert torch.equal(given(student, batch)[:, 0], field.encoder.absent.expand(3, DIM))
    state = train(student, channels, [batch])
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_field_starts_as_small_as_the_tables_rows() -> None:
    student, _ = built("deepfm", {"rawid": {"history_length": 4}})
    assert 0.002 < given(student, batch_of()).std().item() < 0.02


@pytest.mark.parametrize("field", ["history_length", "heads"])
def test_settings_out_of_range(field: str) -> None:
    config: Any = RawHistoryConfig
    with pytest.raises(UserError, match=f"rawid.{field}: got 0, allowed: at least 1"):
        config(**{field: 0})
