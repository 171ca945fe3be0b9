"""Copies of the teacher's tables as fields: what they hold by hand, and what training may move."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from adapters.shared_tables import SharedTables
from adapters.table_projections import EqualWidths, LearnedProjection, SVDProjection, TableProjection
from adapters.teacher_file import SharedRows
from distill.batch import Batch
from distill.errors import NonFiniteError
from experiments.benchmarks.synthetic import make_batch, make_schema
from tests.students.models import array

SCHEMA = make_schema([7, 5, 3])
SIZES = {"feature_1": 5, "item_id": 7}
WIDTH, DIM = 8, 4
ITEM = torch.zeros(0)
"""Of the student's own tables, which nobody reads here."""


def rows_of(seed: int = 0) -> dict[str, SharedRows]:
    """Tables of a teacher that has not seen every third id."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: SharedRows(
            torch.randn(size, WIDTH, generator=generator) * 0.1,
            torch.rand(size, generator=generator) * 1e-4,
            torch.arange(size) % 3 != 1,
        )
        for name, size in SIZES.items()
    }


def shared_tables(projection: TableProjection | None = None, dim: int = DIM, **options: Any) -> SharedTables:
    settings = {"learning_rate": 0.0, "mean": False, "moments": True, "seed": 0} | options
    torch.manual_seed(0)
    chosen = projection or LearnedProjection(len(SIZES), WIDTH, dim)
    return SharedTables(SIZES, WIDTH, dim, chosen, **settings)


def batch_of(seed: int = 0) -> Batch:
    return make_batch(SCHEMA, [0] * 6, seed)


def several_ids() -> tuple[Batch, dict[str, list[list[int]]]]:
    """A batch of three examples in which ids are several, none, or twice the same; and its ids."""
    ids = {"item_id": [[0, 1, 1], [], [6]], "feature_1": [[4, 1], [0], []], "feature_2": [[2], [2], [0]]}
    keyed = KeyedJaggedTensor.from_lengths_sync(
        keys=list(ids),
        values=torch.tensor([i for bags in ids.values() for bag in bags for i in bag]),
        lengths=torch.tensor([len(bag) for bags in ids.values() for bag in bags]),
    )
    return replace(make_batch(SCHEMA, [0] * 3, 0), sparse=keyed), ids


def expected(
    shared: SharedTables, rows: dict[str, SharedRows], ids: dict[str, list[list[int]]], blank: Any
) -> Any:
    """The fields written out: rows of seen ids brought to length 1 and projected, and a vector for each unseen id."""
    assert isinstance(shared.projection, LearnedProjection)
    weights, vectors = array(shared.projection.weight), array(shared.unseen_vector)
    fields = np.zeros((len(ids["item_id"]), len(SIZES), DIM))
    for place, (name, table) in enumerate(rows.items()):
        weight, seen = array(table.weight), table.seen.numpy()
        length = np.sqrt(np.square(weight[seen]).sum(1).mean())
        for example, bag in enumerate(ids[name]):
            for i in bag:
                row = weight[i] if seen[i] else blank(weight[seen])
                fields[example, place] += row / length @ weights[place] + (not seen[i]) * vectors[place]
    return fields


@pytest.mark.parametrize(
    ("mean", "blank"), [(False, lambda seen: 0 * seen[0]), (True, lambda seen: seen.mean(0))]
)
def test_fields_by_hand(mean: bool, blank: Any) -> None:
    shared, rows = shared_tables(mean=mean), rows_of()
    with torch.no_grad():
        shared.unseen_vector.normal_()
    shared.take(rows)
    batch, ids = several_ids()
    np.testing.assert_allclose(array(shared(batch, ITEM)), expected(shared, rows, ids, blank), atol=1e-6)


def test_unseen_ids_are_counted() -> None:
    shared, (batch, _) = shared_tables(), several_ids()
    assert not shared.count_unseen(batch.sparse).any()
    shared.take(rows_of())
    assert shared.count_unseen(batch.sparse).tolist() == [[2, 2], [0, 0], [0, 0]]


def test_without_a_snapshot_nothing_is_said_and_nothing_learnt() -> None:
    shared, batch = shared_tables(learning_rate=0.1), batch_of()
    with torch.no_grad():
        shared.unseen_vector.fill_(1.0)
    before = shared.tables.export()
    fields = shared(batch, ITEM)
    assert fields.shape == (6, 2, DIM) and not fields.any()
    fields.sum().backward()
    after = shared.tables.export()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.grad is not None and p.grad.any() for p in shared.parameters())


def test_a_teacher_that_saw_nothing() -> None:
    shared = shared_tables(mean=True)
    shared.take(
        {name: replace(table, seen=torch.zeros_like(table.seen)) for name, table in rows_of().items()}
    )
    batch, _ = several_ids()
    assert torch.isfinite(shared(batch, ITEM)).all()
    assert shared.count_unseen(batch.sparse).tolist() == [[2, 3], [1, 0], [0, 1]]


def train(shared: SharedTables, steps: int = 3) -> None:
    adam = torch.optim.Adam(shared.parameters(), lr=0.01)
    for step in range(steps):
        adam.zero_grad()
        (shared(batch_of(step), ITEM) - 1).square().sum().backward()
        adam.step()


def test_frozen_copies_stay_the_teachers_bit_by_bit_while_the_projection_learns() -> None:
    shared, rows = shared_tables(), rows_of()
    shared.take(rows)
    assert isinstance(shared.projection, LearnedProjection)
    matrix, vector = shared.projection.weight.clone(), shared.unseen_vector.clone()
    train(shared)
    state = shared.tables.export()
    for name, table in rows.items():
        assert torch.equal(state[f"{name}.weight"][table.seen], table.weight[table.seen])
        assert not state[f"{name}.weight"][~table.seen].any()
    assert not torch.equal(shared.projection.weight, matrix) and not torch.equal(shared.unseen_vector, vector)


def test_trained_copies_move_and_remember_the_teachers_moments() -> None:
    rows = rows_of()
    moved = []
    for moments in (True, False):
        shared = shared_tables(learning_rate=0.1, moments=moments)
        heavy = {
            name: replace(table, moment=torch.full_like(table.moment, 100.0)) for name, table in rows.items()
        }
        shared.take(heavy)
        before = shared.tables.export()
        assert (before["item_id.momentum"][0].item() == 100.0) is moments
        train(shared, steps=1)
        after = shared.tables.export()
        change = (after["item_id.weight"] - before["item_id.weight"])[rows["item_id"].seen]
        moved.append(change.abs().max().item())
    assert 0 < moved[0] < 0.1 * moved[1]


def test_ids_that_the_teacher_never_saw_start_without_a_moment() -> None:
    shared, rows = shared_tables(learning_rate=0.1), rows_of()
    shared.take(rows)
    moment = shared.tables.export()["item_id.momentum"]
    assert not moment[~rows["item_id"].seen].any() and moment[rows["item_id"].seen].all()


@pytest.mark.parametrize("kind", [LearnedProjection, SVDProjection])
def test_a_later_snapshot_replaces_the_rows_and_not_the_projection(kind: Any) -> None:
    shared, batch = shared_tables(kind(len(SIZES), WIDTH, DIM)), batch_of()
    shared.take(rows_of(0))
    fitted = [tensor.clone() for tensor in (*shared.projection.parameters(), *shared.projection.buffers())]
    first = shared(batch, ITEM)
    later = {}
    for name, table in rows_of(0).items():
        later[name] = replace(table, weight=2 * table.weight, seen=torch.ones_like(table.seen))
    shared.take(later)
    now = [*shared.projection.parameters(), *shared.projection.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(fitted, now, strict=True))
    assert not shared.count_unseen(batch.sparse).any()
    seen = torch.stack([rows_of(0)[name].seen[batch.sparse[name].values()] for name in SIZES], dim=1)
    torch.testing.assert_close(shared(batch, ITEM)[seen], 2 * first[seen])


def test_equal_widths_are_the_rows_themselves() -> None:
    shared, batch = shared_tables(EqualWidths(), dim=WIDTH), batch_of()
    rows = rows_of()
    shared.take(rows)
    for place, (name, table) in enumerate(rows.items()):
        ids = batch.sparse[name].values()
        assert torch.equal(shared(batch, ITEM)[:, place], table.weight[ids] * table.seen[ids].unsqueeze(1))


def test_gradient_that_is_not_finite_stops_before_a_trained_copy() -> None:
    shared = shared_tables(learning_rate=0.1)
    shared.take(rows_of())
    before = shared.tables.export()
    with pytest.raises((FloatingPointError, NonFiniteError)):
        (shared(batch_of(), ITEM).sum() * torch.tensor(float("nan"))).backward()
    after = shared.tables.export()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_names_of_what_is_saved() -> None:
    names: dict[str, Tensor] = shared_tables().state_dict()
    assert set(names) == {
        *(f"tables.{feature}.{part}" for feature in SIZES for part in ("weight", "momentum")),
        *("projection.weight", "projection.scale", "unseen_vector", "unseen", "filled"),
    }
