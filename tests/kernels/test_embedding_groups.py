"""Copies of the tables by groups of processes (2-D sparse parallelism, torchrec's DMPCollection), on gloo.

DMPCollection asserts CUDA, and the front refuses it elsewhere (test_embedding_sharding.py); its plan, groups and copies
are the same on every device. So these tests take away what asks for CUDA, and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.remote_device import _remote_device
from torchrec.distributed.model_parallel import DistributedModelParallel, DMPCollection

from kernels.embedding import EmbeddingTables, placement, sharded, sharding
from kernels.table_sharding import Sharding
from tests.kernels.several_processes import launch
from tests.kernels.test_embedding import keyed
from tests.kernels.test_embedding_sharding import STEPS, batch_of, made

CPU = torch.device("cpu")
GROUP, PROCESSES = 2, 4
KINDS = ("row_wise", "table_wise")


class Placed(DistributedModelParallel):
    """Is on the CPU, whatever DMPCollection was told."""

    def __init__(self, module: Any, env: Any, device: Any, *others: Any):
        super().__init__(module, env, CPU, *others)


class OnCpu(DMPCollection, Placed):
    """Without the assertion of CUDA, and without the number of a device in placements."""

    def __init__(self, device: torch.device, **settings: Any):
        super().__init__(device=SimpleNamespace(type="cuda"), **settings)

    def _create_process_groups(self, **settings: Any) -> Any:
        self._device = CPU
        return super()._create_process_groups(**settings)

    def _remap_sharding_plan(self, plan: Any, **settings: Any) -> None:
        super()._remap_sharding_plan(plan, **settings)
        for parameters in plan.plan.values():
            for parameter in parameters.values():
                for shard in parameter.sharding_spec.shards:
                    shard.placement = _remote_device(f"rank:{shard.placement.rank()}/cpu")


def step_on(tables: EmbeddingTables, step: int, ranks: list[int]) -> None:
    """One step on the shares of some processes; gradients are means over those."""
    shares = [batch_of(step, rank) for rank in ranks]
    bags = {name: [ids for share in shares for ids in share[0][name]] for name in tables.features}
    got = tables(keyed(bags), torch.cat([events for _, events in shares]))
    ((got.features.square().sum() + 2 * got.events.sum()) / len(ranks)).backward()


def in_each() -> dict[str, Any]:
    """The tables of a process by their kind, after steps on its own shares."""
    return {kind: trained(kind) for kind in KINDS}


def trained(kind: str) -> dict[str, Any]:
    with (
        mock.patch.object(sharding, "DMPCollection", OnCpu),
        mock.patch.object(placement, "_group", lambda group, *others: group),
        sharded(Sharding(kind, group=GROUP)),
    ):
        tables = made()
        (store,) = tables._stores
        assert isinstance(store._tables, sharding.ShardedTables)
        assert isinstance(store._tables.model, DMPCollection)
    for step in range(STEPS):
        step_on(tables, step, [dist.get_rank()])
        tables.average_copies()
    return {**tables.export(), "again": reloaded(tables)}


def reloaded(tables: EmbeddingTables) -> dict[str, Tensor]:
    """What they hold after they were loaded with what they held."""
    tables.load(tables.export())
    return tables.export()


def of_groups(groups: list[list[int]]) -> dict[str, Tensor]:
    """One process for each group, whose tables are made equal to their mean after every step."""
    copies = [made() for _ in groups]
    for step in range(STEPS):
        for tables, ranks in zip(copies, groups, strict=True):
            step_on(tables, step, ranks)
        states = [tables.export() for tables in copies]
        mean = {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}
        for tables in copies:
            tables.load(mean)
    return mean


def test_groups_train_copies_that_are_averaged_after_every_step(tmp_path: Path) -> None:
    expected = of_groups([[0, 2], [1, 3]])  # torchrec's groups: every second process
    for of_process in launch(PROCESSES, tmp_path, in_each):
        for kind, state in of_process.items():
            for name, tensor in expected.items():
                torch.testing.assert_close(state[name], tensor, rtol=1e-5, atol=1e-6, msg=f"{kind} {name}")
                assert torch.equal(state["again"][name], state[name])
