"""One fused table as torchrec's DistributedModelParallel sees it: plan, wrap, reach its state."""

from __future__ import annotations

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise, table_wise
from torchrec.distributed.types import ShardingEnv, ShardingPlan

from kernels.embedding.process_group import ensure_process_group

TABLE = "rows"


class ShardedTable:
    """fbgemm's fused table behind torchrec's DistributedModelParallel.

    No `nn.Module`: as a part of one it would hand the table to every dense optimiser.

    Args:
        rows, dim, keys, learning_rate, eps, device: as of `shard`.
    """

    def __init__(
        self,
        rows: int,
        dim: int,
        keys: tuple[str, ...],
        learning_rate: float,
        eps: float,
        device: torch.device,
    ):
        self.rows, self.keys = rows, keys
        self.model = shard(rows, dim, keys, learning_rate, eps, device)
        self._whole = whole_table(self.model)

    def look_up(self, ids: KeyedJaggedTensor) -> Tensor:
        """Rows of the bags, the first key's beside the second's, [N / 2, 2 * D]."""
        if self._whole is not None:
            return self._whole(ids.values(), ids.offsets())
        found = self.model(ids)
        assert tuple(found.keys()) == self.keys, f"torchrec returned the keys {found.keys()}"
        return found.values()

    def set_learning_rate(self, learning_rate: float) -> None:
        """From the next backward pass on."""
        optimizer = self.model.fused_optimizer
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()  # hands the rate over to fbgemm; rows are updated in the backward pass only

    def local(self) -> tuple[int, Tensor, Tensor]:
        """As `local_state`."""
        return local_state(self.model)

    def whole(self) -> tuple[Tensor, Tensor]:
        """As `all_rows`."""
        return all_rows(self.model, self.rows)


def shard(
    rows: int, dim: int, keys: tuple[str, ...], learning_rate: float, eps: float, device: torch.device
) -> DistributedModelParallel:
    """One table of `rows` x `dim` that several keys look into, wrapped for training.

    A single process holds all rows. Several processes hold an equal range of rows each (row-wise), so that no
    table is too large for one of them and none waits for the owner of a popular table.

    Args:
        rows: number of rows.
        dim: floats per row.
        keys: keys of the KeyedJaggedTensor, all of which look into this table.
        learning_rate: of the fused row-wise AdaGrad.
        eps: of the fused row-wise AdaGrad, added to the root of the moment.
        device: where the rows live.

    Returns:
        The wrapped collection; its rows hold nothing useful yet.
    """
    group = ensure_process_group()
    table = EmbeddingBagConfig(name=TABLE, num_embeddings=rows, embedding_dim=dim, feature_names=list(keys))
    collection = EmbeddingBagCollection(tables=[table], device=torch.device("meta"))
    sharder = EmbeddingBagCollectionSharder(
        fused_params={
            "optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            "learning_rate": learning_rate,
            "eps": eps,
            # The front has checked every id already, and says which feature it came from.
            "bounds_check_mode": BoundsCheckMode.NONE,
        }
    )
    # The plan is stated, not searched for; the kernel too, because torchrec would plan a dense one here.
    world = dist.get_world_size(group)
    placement = table_wise(0, compute_kernel="fused") if world == 1 else row_wise(compute_kernel="fused")
    plan = construct_module_sharding_plan(
        collection, {TABLE: placement}, sharder, local_size=world, world_size=world, device_type=device.type
    )
    # torchrec fills new tables from the global generator, which must not notice.
    with torch.random.fork_rng(devices=[]):
        return DistributedModelParallel(
            collection,
            env=ShardingEnv.from_process_group(group),
            device=device,
            plan=ShardingPlan(plan={"": plan}),
            sharders=[sharder],
            init_parameters=False,
        )


def whole_table(model: DistributedModelParallel) -> SplitTableBatchedEmbeddingBagsCodegen | None:
    """fbgemm's table inside, when this process holds all of it; None with several processes.

    With one process torchrec's exchange of ids and rows changes nothing, and takes twice as long as the
    look-up itself.
    """
    if dist.get_world_size() > 1:
        return None
    (lookup,) = model.module._lookups
    (kernel,) = lookup._emb_modules
    return kernel.emb_module


def local_state(model: DistributedModelParallel) -> tuple[int, Tensor, Tensor]:
    """This process's part of the table and of its moment, not copied.

    Returns:
        The number of its first row, the weights [local rows, D] and the row-wise moment [local rows].
    """
    (weight,) = model.state_dict().values()
    (moment,) = model.fused_optimizer.state_dict()["state"][f"embedding_bags.{TABLE}.weight"].values()
    (part,) = weight.local_shards()
    return part.metadata.shard_offsets[0], part.tensor, moment.local_shards()[0].tensor.view(-1)


def all_rows(model: DistributedModelParallel, rows: int) -> tuple[Tensor, Tensor]:
    """The whole table and its moment, from all processes; a collective call when there are several.

    Returns:
        Weights [rows, D] and moment [rows]; with one process these are the table itself, not a copy.
    """
    first, weight, moment = local_state(model)
    if dist.get_world_size() == 1:
        return weight, moment
    whole = []
    for part in (weight, moment):
        full = part.new_zeros(rows, *part.shape[1:])
        full[first : first + len(part)] = part
        dist.all_reduce(full)  # every row is non-zero in its owner's part only
        whole.append(full)
    return whole[0], whole[1]
