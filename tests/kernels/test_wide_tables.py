"""Wide tables against N tables of their own: in double precision to 1e-12, against fbgemm's to rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.embedding import EmbeddingTables, History, WideTables
from kernels.embedding import wide as wide_tables
from kernels.embedding.wide_reference import ReferenceTables
from tests.kernels.test_embedding import DIM, SIZES, keyed, random_batch

SEEDS = (3, 5, 3, 8)
RATES = (0.1, 0.1, 0.5, 0.0)
MEMBERS = len(SEEDS)
EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


def make(**changes: Any) -> WideTables:
    options: dict[str, Any] = {
        "tables": SIZES,
        "dim": DIM,
        "seeds": SEEDS,
        "learning_rates": RATES,
        "history_feature": "item",
    }
    return WideTables(**(options | changes))


def alone(kind: type, **changes: Any) -> list[Any]:
    """Tables of each member by itself."""
    common = {"tables": SIZES, "dim": DIM, "history_feature": "item"} | changes
    return [kind(seed=seed, learning_rate=rate, **common) for seed, rate in zip(SEEDS, RATES, strict=True)]


def gradients(examples: int, events: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of all members' features and events."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(MEMBERS, examples, len(SIZES), DIM, generator=draw).to(dtype)
    return features, torch.randn(MEMBERS, events, DIM, generator=draw).to(dtype)


def train_both(
    kind: type, wide: WideTables, single: list[Any], examples: int, events: int, ones: bool, **near: Any
) -> None:
    """Four steps of both, every look-up and then every row and moment compared."""
    for step in range(4):
        bags, history = random_batch(examples, events, step, ones)
        got = wide(keyed(bags), history)
        assert got.events is not None
        of_features, of_events = gradients(examples, events, step, wide.weight.dtype)
        for member, tables in enumerate(single):
            want = tables(keyed(bags), history)
            torch.testing.assert_close(got.features[member], want.features, **near)
            torch.testing.assert_close(got.events[member], want.events, **near)
            torch.autograd.backward([want.features, want.events], [of_features[member], of_events[member]])
        torch.autograd.backward([got.features, got.events], [of_features, of_events])
    for member, tables in enumerate(single):
        found = wide.export(member)
        for name, expected in tables.export().items():
            torch.testing.assert_close(found[name], expected, **near)


SHAPES = [(1, 0), (5, 1), (6, 13), (33, 100)]


@pytest.mark.parametrize("ones", [False, True])
@pytest.mark.parametrize(("examples", "events"), SHAPES)
def test_in_double_precision_they_equal_the_definition(examples: int, events: int, ones: bool) -> None:
    wide = make(dtype=torch.float64)
    train_both(ReferenceTables, wide, alone(ReferenceTables), examples, events, ones, **EXACT)


@pytest.mark.parametrize("ones", [False, True])
@pytest.mark.parametrize(("examples", "events"), SHAPES)
def test_in_single_precision_they_equal_fbgemms_tables(examples: int, events: int, ones: bool) -> None:
    train_both(EmbeddingTables, make(), alone(EmbeddingTables), examples, events, ones, rtol=1e-5, atol=1e-6)


def test_initial_rows_are_those_of_the_members_own_tables() -> None:
    wide = make()
    for member, tables in enumerate(alone(EmbeddingTables)):
        found, expected = wide.export(member), tables.export()
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("lengths", [[2, 0, 1, 4, 3, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
def test_pooled_history_equals_its_events_pooled_one_by_one(mean: bool, lengths: list[int]) -> None:
    counts = torch.tensor(lengths)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    wide, single = make(dtype=torch.float64), make(dtype=torch.float64)
    for step in range(3):
        bags, history = random_batch(6, int(offsets[-1]), step)
        got = wide.pooled(keyed(bags), History(history, offsets, mean))
        want = single(keyed(bags), history)
        assert want.events is not None
        of_examples = torch.split(want.events, lengths, dim=1)
        divide = counts.clamp_min(1).double()[:, None] if mean else 1
        pooled = torch.stack([events.sum(1) for events in of_examples], 1) / divide
        expected = torch.cat([want.features, pooled.unsqueeze(2)], 2)
        torch.testing.assert_close(got, expected, **EXACT)
        gradient = torch.randn(got.shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        got.backward(gradient)
        expected.backward(gradient)
    torch.testing.assert_close(wide.weight, single.weight, **EXACT)
    torch.testing.assert_close(wide.moment, single.moment, **EXACT)


def step_of(wide: WideTables, step: int, spoil: Any = lambda features, events: None) -> None:
    bags, history = random_batch(8, 11, step)
    got = wide(keyed(bags), history)
    parts = gradients(8, 11, step, torch.float32)
    spoil(*parts)
    torch.autograd.backward([got.features, got.events], list(parts))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("in_event", [False, True])
def test_a_member_with_a_non_finite_gradient_is_frozen_and_the_others_do_not_notice(
    bad: float, in_event: bool
) -> None:
    def spoil(features: Tensor, events: Tensor) -> None:
        (events if in_event else features)[1, 3, ..., 0] = bad

    wide, whole = make(), make()
    for step in range(4):
        if step == 2:
            before = wide.export(1)
        step_of(wide, step, spoil if step == 2 else lambda features, events: None)
        step_of(whole, step)
    assert wide.alive.tolist() == [True, False, True, True]
    after = wide.export(1)
    assert all(torch.equal(before[name], after[name]) for name in before)
    for member in (0, 2, 3):
        found, expected = wide.export(member), whole.export(member)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_member_that_is_frozen_by_hand_stays_as_it_is() -> None:
    wide, whole = make(), make()
    wide.freeze(2)
    before = wide.export(2)
    for step in range(3):
        step_of(wide, step)
        step_of(whole, step)
    assert all(torch.equal(tensor, before[name]) for name, tensor in wide.export(2).items())
    for member in (0, 1, 3):
        found, expected = wide.export(member), whole.export(member)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_moment_of_a_row_and_member_is_its_mean_squared_gradient_summed_over_steps() -> None:
    """Restated number by number: row 2 is hit twice in the first step, row 0 by nobody."""
    rates, steps = (0.5, 0.25), ([1, 2, 2], [2, 3])
    wide = make(tables={"item": 4}, dim=4, seeds=[0, 1], learning_rates=rates, dtype=torch.float64)
    rows = [wide.export(member)["item.weight"].tolist() for member in (0, 1)]
    moments = [[0.0] * 4, [0.0] * 4]
    for step, ids in enumerate(steps):
        gradient = torch.arange(2.0 * len(ids) * 4, dtype=torch.float64).view(2, len(ids), 1, 4).sin() + step
        wide(keyed({"item": [[one] for one in ids]})).features.backward(gradient)
        for member in (0, 1):
            for row in set(ids):
                hits = [gradient[member, place, 0].tolist() for place, one in enumerate(ids) if one == row]
                summed = [sum(column) for column in zip(*hits, strict=True)]
                moments[member][row] += sum(value * value for value in summed) / 4
                scale = rates[member] / (moments[member][row] ** 0.5 + 1e-8)
                rows[member][row] = [
                    weight - scale * value for weight, value in zip(rows[member][row], summed, strict=True)
                ]
    for member in (0, 1):
        found = wide.export(member)
        torch.testing.assert_close(
            found["item.momentum"], torch.tensor(moments[member], dtype=torch.float64), **EXACT
        )
        torch.testing.assert_close(
            found["item.weight"], torch.tensor(rows[member], dtype=torch.float64), **EXACT
        )
    assert moments[0] != moments[1] and moments[0][0] == 0 < moments[0][3]


def test_large_finite_gradients_whose_squares_overflow_freeze_nobody() -> None:
    wide = make(tables={"item": 3}, dim=4)
    before = [wide.export(member)["item.weight"] for member in range(MEMBERS)]
    gradient = torch.ones(MEMBERS, 2, 1, 4)
    gradient[1, 1] = 1e30
    wide(keyed({"item": [[0], [1]]})).features.backward(gradient)
    assert wide.alive.all()
    for member, rate in enumerate(RATES):
        # A gradient of ones makes a step of the rate; an infinite moment, a step of 0.
        large = member == 1
        found = wide.export(member)
        steps = torch.tensor([rate, 0.0 if large else rate, 0.0])[:, None]
        torch.testing.assert_close(found["item.weight"], before[member] - steps)
        assert found["item.momentum"].tolist() == [1, torch.inf if large else 1, 0]


def test_finite_gradients_whose_sum_overflows_freeze_their_member() -> None:
    wide, whole = make(tables={"item": 2}, dim=4), make(tables={"item": 2}, dim=4)
    before = wide.export(1)
    for tables, largest in ((wide, 3e38), (whole, 1.0)):
        gradient = torch.ones(MEMBERS, 2, 1, 4)
        gradient[1] = largest
        tables(keyed({"item": [[1], [1]]})).features.backward(gradient)
    assert wide.alive.tolist() == [True, False, True, True]
    assert all(torch.equal(wide.export(1)[name], tensor) for name, tensor in before.items())
    for member in (0, 2, 3):
        found, expected = wide.export(member), whole.export(member)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_frozen_members_gradient_is_not_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[Tensor] = []

    def search(g: Tensor) -> Tensor:
        searched.append(g)
        return g.isfinite().all(2).all(0)

    def spoil(features: Tensor, events: Tensor) -> None:
        features[1] = torch.nan

    monkeypatch.setattr(wide_tables, "_finite", search)
    wide = make()
    for step in range(3):
        step_of(wide, step, spoil)
    assert len(searched) == 1 and wide.alive.tolist() == [True, False, True, True]


def test_a_row_hit_as_target_and_in_history_is_updated_once_with_the_summed_gradient() -> None:
    wide = make(tables={"item": 4}, dim=4, seeds=[0, 1], learning_rates=[0.5, 0.25])
    before = [wide.export(member)["item.weight"][2] for member in (0, 1)]
    got = wide(keyed({"item": [[2]]}), torch.tensor([2, 2]))
    assert got.events is not None
    (3.0 * got.features.sum() - got.events.sum()).backward()
    # Gradient 3 - 1 - 1 = 1 in every column: moment 1, a step of the member's rate.
    for member, rate in ((0, 0.5), (1, 0.25)):
        torch.testing.assert_close(wide.export(member)["item.momentum"], torch.tensor([0.0, 0.0, 1.0, 0.0]))
        torch.testing.assert_close(wide.export(member)["item.weight"][2], before[member] - rate)


def test_set_learning_rate_of_one_member() -> None:
    wide = make(tables={"item": 2}, dim=4, seeds=[0, 1], learning_rates=[0.5, 0.5])
    before = [wide.export(member)["item.weight"][1] for member in (0, 1)]
    wide.set_learning_rate(1, 0.125)
    wide(keyed({"item": [[1]]})).features.sum().backward()
    for member, rate in ((0, 0.5), (1, 0.125)):
        torch.testing.assert_close(wide.export(member)["item.weight"][1], before[member] - rate)


def test_repeats_are_bitwise_equal() -> None:
    first, second = make(), make()
    for step in range(3):
        step_of(first, step)
        step_of(second, step)
    assert torch.equal(first.weight, second.weight) and torch.equal(first.moment, second.moment)


def test_a_member_loads_what_its_own_tables_export_and_the_others_keep_theirs() -> None:
    wide = make()
    other = EmbeddingTables(SIZES, DIM, seed=11, learning_rate=0.1, history_feature="item")
    bags, history = random_batch(8, 11, 0)
    other(keyed(bags), history).features.sum().backward()
    neighbour = wide.export(2)
    wide.load(1, other.export())
    assert all(torch.equal(wide.export(1)[name], tensor) for name, tensor in other.export().items())
    assert all(torch.equal(wide.export(2)[name], tensor) for name, tensor in neighbour.items())


def test_predicting_changes_nothing() -> None:
    wide = make()
    bags, history = random_batch(8, 11, 0)
    expected = wide(keyed(bags), history).features.detach()
    before = wide.weight.clone()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(wide(keyed(bags), history).features, expected)
    assert torch.equal(wide.weight, before)


def test_empty_batch() -> None:
    wide = make()
    got = wide(keyed({"user": [], "item": [], "tags": []}), torch.empty(0, dtype=torch.int64))
    assert got.features.shape == (MEMBERS, 0, 3, DIM)
    assert got.events is not None and got.events.shape == (MEMBERS, 0, DIM)
    got.features.sum().backward()


def test_rows_are_no_parameters_and_are_in_the_state() -> None:
    wide, other = make(), make(seeds=[9, 9, 9, 9])
    assert list(wide.parameters()) == []
    step_of(wide, 0)
    other.load_state_dict(wide.state_dict())
    assert torch.equal(other.export(3)["user.momentum"], wide.export(3)["user.momentum"])


@pytest.mark.parametrize(
    ("bags", "history", "message"),
    [
        ({"user": [[0], [50]]}, [], r"feature 'user': got id 50, allowed: 0 to 49 \(size 50\)"),
        ({"tags": [[1, 2], [3, 99]]}, [], r"feature 'tags': got id 99, allowed: 0 to 6"),
        ({}, [1, 30, 2], r"feature 'item': got id 30, allowed: 0 to 29"),
        ({}, [1, -1], r"feature 'item': got id -1, allowed: 0 to 29"),
    ],
)
def test_an_id_outside_its_table_is_named(bags: dict[str, Any], history: list[int], message: str) -> None:
    good: dict[str, Any] = {"user": [[1], [2]], "item": [[3], [4]], "tags": [[5], [6, 0]]}
    with pytest.raises(ValueError, match=message):
        make()(keyed(good | bags), torch.tensor(history, dtype=torch.int64))


def test_history_ids_without_a_history_feature_are_refused() -> None:
    bags, _ = random_batch(2, 0, seed=0)
    with pytest.raises(ValueError, match="no history_feature was set"):
        make(history_feature=None)(keyed(bags), torch.tensor([1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rates": [], "seeds": None}, "learning_rates: got none"),
        ({"seeds": [1]}, "seeds: got 1 for 4 members"),
        ({"learning_rates": [0.1, 0.1, -1.0, 0.1]}, "learning_rate: got -1.0"),
        ({"tables": {}}, "tables: got none"),
        ({"dim": 6}, "dim: got 6, allowed: a positive multiple of 4"),
        ({"history_feature": "itm"}, "history_feature: got 'itm', allowed: one of user, item, tags"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_loading_another_shape_is_refused_and_changes_nothing() -> None:
    wide = make()
    before, state = wide.weight.clone(), make().export(0)
    state["tags.weight"] = torch.zeros(8, DIM)
    with pytest.raises(ValueError, match=r"'tags.weight' has shape \(8, 8\), allowed: \(7, 8\)"):
        wide.load(0, state)
    assert torch.equal(wide.weight, before)
