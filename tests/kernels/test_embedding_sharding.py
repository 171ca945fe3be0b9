"""Every kind of sharding gives what one process gives; what cannot be shared is refused in all processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from kernels.embedding import EmbeddingTables, sharded
from kernels.embedding.placement import owners_of
from kernels.table_sharding import KINDS, Sharding, ShardingError
from tests.kernels.several_processes import launch
from tests.kernels.test_embedding import DIM, SIZES, keyed, random_batch

MIXED = Sharding("data_parallel", {"item": "table_wise", "user": "row_wise"})
SHARDINGS = {**{kind: Sharding(kind) for kind in KINDS}, "mixed": MIXED}
STEPS, RATE, LATER_RATE = 3, 0.1, 0.05


def batch_of(step: int, rank: int) -> tuple[dict[str, list[list[int]]], Tensor]:
    """Unequal shares; the last step has no event in any process."""
    events = 0 if step == STEPS - 1 else 5 + 4 * rank
    return random_batch(6 + rank, events, seed=10 * step + rank, single=step == 1)


def made() -> EmbeddingTables:
    return EmbeddingTables(SIZES, DIM, seed=3, learning_rate=RATE, history_feature="item")


def trained(sharding: Sharding, ranks: range) -> dict[str, Tensor]:
    """The tables after steps on the shares of some processes, and what the last look-up gave."""
    with sharded(sharding):
        tables = made()
    for step in range(STEPS):
        shares = [batch_of(step, rank) for rank in ranks]
        bags = {name: [ids for share in shares for ids in share[0][name]] for name in SIZES}
        got = tables(keyed(bags), torch.cat([events for _, events in shares]))
        # Gradients are averaged over processes, as those of the dense parameters are.
        ((got.features.square().sum() + 2 * got.events.sum()) / len(ranks)).backward()
        tables.set_learning_rate(LATER_RATE)
    with torch.inference_mode():
        bags, history = random_batch(4, 3, seed=99)
        seen = tables(keyed(bags), history)
    return tables.export() | {"features": seen.features, "events": seen.events}


def refusal(sharding: Sharding, tables: dict[str, int] = SIZES) -> str:
    """What a process says of tables that cannot be shared so."""
    with pytest.raises(ShardingError) as caught, sharded(sharding):
        EmbeddingTables(tables, DIM, seed=3, learning_rate=RATE)
    return str(caught.value)


def in_each() -> dict[str, Any]:
    """Every sharding in one process of several; then what cannot be, and that training is still possible after it."""
    rank = dist.get_rank()
    refused = {
        "of_one": refusal(Sharding(group=3 if rank == 1 else 0)),
        "of_all": refusal(Sharding(group=1)),
        "other_tables": refusal(Sharding(), {"user": 50 + rank}),
        "other_kinds": refusal(Sharding(KINDS[rank % 2])),
    }
    states = {name: trained(sharding, range(rank, rank + 1)) for name, sharding in SHARDINGS.items()}
    return {"dense": list(made().parameters()), "states": states, "refused": refused}


@pytest.mark.parametrize("number", [2, 4])
def test_every_kind_equals_one_process_and_refusals_reach_all(number: int, tmp_path: Path) -> None:
    found = launch(number, tmp_path, in_each)
    expected = trained(Sharding(), range(number))
    for rank, of_process in enumerate(found):
        assert of_process["dense"] == [], "a dense optimiser would train the tables a second time"
        for name, state in of_process["states"].items():
            for key, tensor in expected.items():
                torch.testing.assert_close(state[key], tensor, rtol=1e-5, atol=1e-6, msg=f"{name} {key}")
        refused = of_process["refused"]
        assert refused["of_one"] == (
            f"sharding.group: got 3 with {number} processes, allowed: 0 or a divisor of {number}"
        )
        assert f"got 1 with {number} processes on 'cpu', allowed: 0 or {number}" in refused["of_all"]
        assert "DMPCollection, which runs on CUDA only" in refused["of_all"]
        for other in ("other_tables", "other_kinds"):
            assert f"tables: process {rank} has " in refused[other]


def test_large_tables_go_to_the_process_with_the_fewest_rows() -> None:
    sizes = {"a": 5, "b": 9, "c": 4, "d": 5, "e": 1}
    # 9 to 0; 5 to 1; 5 to 1, which has 5 < 9; 4 to 0, which has 9 < 10; 1 to 1, which has 10 < 13.
    assert owners_of(sizes, 2) == {0: ("b", "c"), 1: ("a", "d", "e")}
    assert owners_of({"a": 2, "b": 3}, 4) == {0: ("b",), 1: ("a",)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tables": "rows"}, r"sharding.tables: got 'rows', allowed: row_wise, table_wise, data_parallel$"),
        ({"kinds": {"item": "grid"}}, r"sharding.kinds.item: got 'grid', allowed: row_wise, table_wise"),
        (
            {"tables": "column_wise"},
            r"got 'column_wise', .*; not column_wise, .* a moment of its own, and that is another algorithm",
        ),
    ],
)
def test_an_unknown_kind_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ShardingError, match=message):
        Sharding(**settings)


def test_a_kind_for_a_table_that_nobody_made_is_refused() -> None:
    with (
        pytest.raises(ShardingError, match="sharding.kinds: got 'itm', allowed: item, tags, user"),
        sharded(Sharding(kinds={"item": "row_wise", "itm": "row_wise"})),
    ):
        made()


def test_one_process_holds_everything_whatever_is_asked_for() -> None:
    with sharded(Sharding("table_wise", {"item": "data_parallel"}, group=8)):
        tables = made()
    assert all(torch.equal(tensor, made().export()[name]) for name, tensor in tables.export().items())
