"""Fused tables as torchrec's DistributedModelParallel sees them: plan, wrap, reach their state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed.batched_embedding_kernel import BatchedFusedEmbeddingBag
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel, DMPCollection
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise, table_wise
from torchrec.distributed.types import ShardingEnv, ShardingPlan

from kernels.embedding.keys import KEYS
from kernels.embedding.process_group import ensure_process_group
from kernels.table_sharding import TABLE_WISE


class ShardedTables:
    """fbgemm's fused tables behind torchrec's DistributedModelParallel; one for each owner, of all its rows.

    No `nn.Module`: as a part of one it would hand the tables to every dense optimiser.

    Args:
        rows: owner to number of rows; table-wise, the process that holds them, else 0 alone.
        kind: row_wise or table_wise.
        group: processes that share one copy of the tables; 0 for all.
        dim: floats per row.
        learning_rate, eps: of the fused row-wise AdaGrad; eps is added to the root of the moment.
        device: where the rows live.
    """

    def __init__(
        self,
        rows: Mapping[int, int],
        kind: str,
        group: int,
        dim: int,
        learning_rate: float,
        eps: float,
        device: torch.device,
    ):
        self.rows, self.dim, self.device = dict(rows), dim, device
        self.model = _wrapped(self.rows, kind, group, dim, learning_rate, eps, device)
        self._whole = whole_table(self.model)
        # Processes that hold all rows between them.
        self._group = self.model.device_mesh.get_group("shard") if group else dist.group.WORLD

    def look_up(self, ids: Sequence[KeyedJaggedTensor]) -> list[Tensor]:
        """Rows of each owner's bags, each key's beside those of the one before, [N / K, K * D].

        Args:
            ids: of each owner's table, all with N bags; `KEYS` are their keys.
        """
        if self._whole is not None:
            (alone,) = ids
            return [self._whole(alone.values(), alone.offsets())]
        found = self.model(_keyed(self.rows, ids))
        if found.keys() == [key for owner in self.rows for key in _keys(owner)] and len(self.rows) == 1:
            return [found.values()]
        by_name = found.to_dict()  # torchrec's own order is that of the shards
        return [torch.cat([by_name[key] for key in _keys(owner)], 1) for owner in self.rows]

    def set_learning_rate(self, learning_rate: float) -> None:
        """From the next backward pass on."""
        optimizer = self.model.fused_optimizer
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()  # hands the rate over to fbgemm; rows are updated in the backward pass only

    def local(self, owner: int) -> tuple[int, Tensor, Tensor] | None:
        """This process's part of an owner's table and of its moment, not copied.

        Returns:
            The number of its first row, the weights [local rows, D] and the row-wise moment [local rows]; None where
            this process has no part of it.
        """
        for kernel in _kernels(self.model):
            tables = kernel.config.embedding_tables
            states = zip(
                tables,
                kernel.emb_module.split_embedding_weights(),
                kernel.emb_module.split_optimizer_states(),
                strict=True,
            )
            for table, weight, (moment,) in states:
                if table.name == _table(owner):
                    return table.local_metadata.shard_offsets[0], weight, moment.view(-1)
        return None

    def average_copies(self) -> None:
        """Make the groups' copies equal to their mean; to be called after every step, by all processes."""
        if isinstance(self.model, DMPCollection):
            self.model.sync()

    def whole(self, owner: int) -> tuple[Tensor, Tensor]:
        """An owner's table and its moment, from all processes; a collective call when there are several.

        Returns:
            Weights [rows, D] and moment [rows]; with one process these are the table itself, not a copy.
        """
        local = self.local(owner)
        if dist.get_world_size() == 1:
            assert local is not None
            return local[1:]
        weight = torch.zeros(self.rows[owner], self.dim, device=self.device)
        moment = torch.zeros(self.rows[owner], device=self.device)
        if local is not None:
            first, own_weight, own_moment = local
            weight[first : first + len(own_weight)] = own_weight
            moment[first : first + len(own_moment)] = own_moment
        for full in (weight, moment):
            dist.all_reduce(full, group=self._group)  # every row is non-zero in its holder's part only
        return weight, moment


def _table(owner: int) -> str:
    """The name of an owner's table."""
    return f"rows_{owner}"


def _keys(owner: int) -> list[str]:
    """The keys that look into it."""
    return [f"{key}_{owner}" for key in KEYS]


def _keyed(owners: Iterable[int], ids: Sequence[KeyedJaggedTensor]) -> KeyedJaggedTensor:
    """The bags of all tables, each under its own keys."""
    return KeyedJaggedTensor(
        [key for owner in owners for key in _keys(owner)],
        torch.cat([bags.values() for bags in ids]),
        lengths=torch.cat([bags.lengths() for bags in ids]),
        stride=ids[0].stride(),
    )


def _wrapped(
    rows: Mapping[int, int],
    kind: str,
    group: int,
    dim: int,
    learning_rate: float,
    eps: float,
    device: torch.device,
) -> DistributedModelParallel:
    """The tables, wrapped for training; their rows hold nothing useful yet."""
    tables = [
        EmbeddingBagConfig(
            name=_table(owner), num_embeddings=size, embedding_dim=dim, feature_names=_keys(owner)
        )
        for owner, size in rows.items()
    ]
    collection = EmbeddingBagCollection(tables=tables, device=torch.device("meta"))
    sharder = EmbeddingBagCollectionSharder(
        fused_params={
            "optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            "learning_rate": learning_rate,
            "eps": eps,
            # The front has checked every id already, and says which feature it came from.
            "bounds_check_mode": BoundsCheckMode.NONE,
        }
    )
    everybody = ensure_process_group()
    world = group or dist.get_world_size(everybody)
    # torchrec would plan a dense kernel here.
    placements = {
        _table(owner): table_wise(owner, compute_kernel="fused")
        if world == 1 or kind == TABLE_WISE
        else row_wise(compute_kernel="fused")
        for owner in rows
    }
    plan = construct_module_sharding_plan(
        collection, placements, sharder, local_size=world, world_size=world, device_type=device.type
    )
    shared = {
        "module": collection,
        "device": device,
        "plan": ShardingPlan(plan={"": plan}),
        "sharders": [sharder],
        "init_parameters": False,
    }
    # torchrec fills new tables from the global generator, which must not notice.
    with torch.random.fork_rng(devices=[]):
        if group:
            sizes = {"world_size": dist.get_world_size(everybody), "sharding_group_size": group}
            return DMPCollection(**shared, **sizes, global_pg=everybody)
        return DistributedModelParallel(**shared, env=ShardingEnv.from_process_group(everybody))


def _kernels(model: DistributedModelParallel) -> Iterator[BatchedFusedEmbeddingBag]:
    """What torchrec keeps around each of fbgemm's tables that are in this process."""
    for lookup in model.module._lookups:
        yield from lookup._emb_modules


def whole_table(model: DistributedModelParallel) -> SplitTableBatchedEmbeddingBagsCodegen | None:
    """fbgemm's table inside, when this process holds all of it; None with several processes.

    With one process torchrec's exchange of ids and rows changes nothing, and takes twice as long as the
    look-up itself.
    """
    if dist.get_world_size() > 1:
        return None
    (kernel,) = _kernels(model)
    return kernel.emb_module
