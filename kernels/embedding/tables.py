"""The front of the embedding tables: ids in, embeddings out, the fused update behind the backward pass.

Shape letters: B examples, F features, T history events of the batch, D embedding dim, N >= F * B + T bags.

All tables share one width, so their rows lie one after another in ONE fused table, and one look-up serves
every bag: the features' and, with one id each, the history's. (Several processes keep one such table for each
kind of sharding and owner: `kernels.embedding.placement`; how many keys look into it: `kernels.embedding.keys`.)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from kernels.embedding.placement import parts
from kernels.embedding.process_group import ensure_process_group
from kernels.embedding.store import Store


@dataclass(frozen=True)
class Embedded:
    """What a look-up gives.

    Attributes:
        features: float32 [B, F, D], in the order of the tables; zeros where an example has no id.
        events: float32 [T, D], the history's events; None when no history was asked for.
    """

    features: Tensor
    events: Tensor | None


class EmbeddingTables(nn.Module):
    """Tables of sparse features with a fused row-wise AdaGrad, through torchrec's DistributedModelParallel.

    The backward pass updates the tables; they are no `parameters()` of this module, so that no dense
    optimiser, gradient clipping or DistributedDataParallel ever meets them. They are in `state_dict()`, as
    plain tensors.

    Args:
        tables: feature to number of rows.
        dim: D, a multiple of 4 (fbgemm's rule).
        seed: initial rows are normal, drawn from (seed, feature) alone.
        learning_rate: of the row-wise AdaGrad.
        history_feature: the feature whose table history ids look into.
        init_std: standard deviation of the initial rows.
        device: where the tables live.

    Raises:
        ValueError: an argument outside its range.
        ShardingError: the processes cannot share the tables as `sharded` asks.
        RuntimeError: a CUDA device without fbgemm's CUDA build, and several processes or no triton.
    """

    def __init__(
        self,
        tables: Mapping[str, int],
        dim: int,
        seed: int,
        learning_rate: float,
        history_feature: str | None = None,
        init_std: float = 0.01,
        device: torch.device | str = "cpu",
    ):
        super().__init__()
        check_arguments(tables, dim, learning_rate, history_feature)
        self.features = tuple(tables)
        self.dim = dim
        self._sizes, self._history_feature = dict(tables), history_feature
        ensure_process_group()
        device = torch.device(device)
        self._stores = [
            Store(part, tables, dim, learning_rate, history_feature, device) for part in parts(tables, device)
        ]
        stored = [name for store in self._stores for name in store.features]
        self._order = [stored.index(name) for name in tables]
        self._fields = [len(layout.ranges) for store in self._stores for layout in store.layouts.values()]
        for feature, rows in tables.items():
            weight = initial_rows(seed, feature, rows, dim, init_std)
            self._load_feature(feature, weight, torch.zeros(rows))

    @property
    def n_parameters(self) -> int:
        """Trained numbers in all tables (moments not counted)."""
        return sum(self._sizes.values()) * self.dim

    @torch.compiler.disable  # a compiled model calls it between its graphs: fbgemm's tables only break them
    def forward(self, sparse: KeyedJaggedTensor, history_ids: Tensor | None = None) -> Embedded:
        """Look up a batch.

        Args:
            sparse: ids of at least the tables' features, in any order; several ids of one example are summed.
            history_ids: int64 [T], ids of the history feature.

        Returns:
            Embeddings of the features and of the events. Their backward pass updates the tables, unless the
            gradient is not finite: then it raises FloatingPointError and leaves them as they are.

        Raises:
            ValueError: a feature is missing, or an id is outside its table.
        """
        if history_ids is not None and self._history_feature is None:
            raise ValueError("history_ids: got ids, allowed: None, because no history_feature was set")
        rows, sizes = self._look_up(sparse, history_ids)
        batch = sparse.stride()
        if history_ids is None and sizes == [len(rows), 0, 0]:
            return Embedded(rows.view(batch, len(self.features), self.dim), None)
        # One split, not slices: the backward pass of each slice would fill a whole gradient with zeros.
        pieces = rows.split(sizes)
        features = [
            piece.view(batch, fields, self.dim)
            for piece, fields in zip(pieces[::3], self._fields, strict=True)
        ]
        embedded = features[0] if len(features) == 1 else torch.cat(features, 1)[:, self._order]
        events = max(pieces[1::3], key=len)  # one owner at most has any
        return Embedded(embedded, None if history_ids is None else events)

    def _look_up(self, sparse: KeyedJaggedTensor, history_ids: Tensor | None) -> tuple[Tensor, list[int]]:
        """Rows of all bags, owner by owner; of each owner the numbers of features' bags, of events, of empty bags."""
        if torch.is_inference_mode_enabled():
            # fbgemm's operator exists for autograd only, which inference mode takes away.
            with torch.inference_mode(False), torch.no_grad():
                return self._look_up(sparse, history_ids)
        found = [of_owner for store in self._stores for of_owner in store.look_up(sparse, history_ids)]
        rows = found[0].rows if len(found) == 1 else torch.cat([of_owner.rows for of_owner in found])
        if rows.requires_grad:
            # One hook for all: no table is updated before all gradients were looked at.
            rows.register_hook(refuse_non_finite)
        return rows, [size for of_owner in found for size in of_owner.sizes]

    def set_learning_rate(self, learning_rate: float) -> None:
        """Change the learning rate from the next backward pass on."""
        check_learning_rate(learning_rate)
        for store in self._stores:
            store.set_learning_rate(learning_rate)

    def average_copies(self) -> None:
        """Where groups of processes have copies of the tables (`Sharding.group`), make these equal to their mean.

        To be called after every step, by all processes; without groups there is nothing to do.
        """
        for store in self._stores:
            store.average_copies()

    def export(self) -> dict[str, Tensor]:
        """All rows and moments, copied. Of several processes each must call it, and each gets everything.

        Returns:
            `<feature>.weight` float32 [rows, D] and `<feature>.momentum` float32 [rows] of every feature.
        """
        state = {name: tensor for store in self._stores for name, tensor in store.whole().items()}
        return {name: state[name] for feature in self.features for name in _names(feature)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `export` gave.

        Raises:
            ValueError: a tensor is missing or has another shape; then nothing was loaded.
        """
        for feature, rows in self._sizes.items():
            weight, moment = _names(feature)
            check_tensor(state, weight, (rows, self.dim))
            check_tensor(state, moment, (rows,))
        for feature in self.features:
            weight, moment = _names(feature)
            self._load_feature(feature, state[weight], state[moment])

    def _load_feature(self, feature: str, weight: Tensor, moment: Tensor) -> None:
        (store,) = (store for store in self._stores if feature in store.features)
        store.load(feature, weight, moment)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination.update({prefix + name: tensor for name, tensor in self.export().items()})

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        expected = [name for feature in self.features for name in _names(feature)]
        mine = {name.removeprefix(prefix): state_dict[name] for name in state_dict if name.startswith(prefix)}
        missing_keys += [prefix + name for name in expected if name not in mine]
        unexpected_keys += [prefix + name for name in mine if name not in expected and strict]
        if all(name in mine for name in expected):
            try:
                self.load(mine)
            except ValueError as error:
                error_msgs.append(str(error))


def _names(feature: str) -> tuple[str, str]:
    """Of a feature's rows and moments in a state."""
    return f"{feature}.weight", f"{feature}.momentum"


def dense_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that a dense optimiser trains: all but the fused tables, which update themselves."""
    return module.parameters()


def refuse_non_finite(gradient: Tensor) -> None:
    """Stop the backward pass before the fused update, which would write NaN into the tables.

    Raises:
        FloatingPointError: `gradient` holds NaN or infinity.
    """
    # One fast pass: a finite sum has finite terms. The reverse does not hold, finite terms can overflow.
    if math.isfinite(gradient.sum().item()):
        return
    bad = int((~torch.isfinite(gradient)).sum())
    if bad:
        raise FloatingPointError(
            f"embedding gradient: {bad} of {gradient.numel()} values are NaN or infinite; "
            "the tables are as they were before this step"
        )


def initial_rows(seed: int, feature: str, rows: int, dim: int, std: float) -> Tensor:
    """float32 [rows, dim], normal, drawn from (seed, feature) alone."""
    digest = hashlib.sha256(f"{seed}/tables.{feature}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.empty(rows, dim).normal_(0.0, std, generator=generator)


def check_arguments(
    tables: Mapping[str, int], dim: int, learning_rate: float, history_feature: str | None
) -> None:
    """Refuse tables that cannot be; ValueError names the argument."""
    if not tables:
        raise ValueError("tables: got none, allowed: at least one feature")
    for feature, rows in tables.items():
        if rows < 1:
            raise ValueError(f"tables: got {rows} rows for feature '{feature}', allowed: at least 1")
    if dim < 4 or dim % 4:
        raise ValueError(f"dim: got {dim}, allowed: a positive multiple of 4")
    check_learning_rate(learning_rate)
    if history_feature is not None and history_feature not in tables:
        raise ValueError(f"history_feature: got '{history_feature}', allowed: one of {', '.join(tables)}")


def check_learning_rate(learning_rate: float) -> None:
    """Refuse a rate that is negative or not finite; ValueError."""
    if not 0.0 <= learning_rate < float("inf"):
        raise ValueError(f"learning_rate: got {learning_rate}, allowed: a finite number, 0 or more")


def check_tensor(state: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> None:
    """Refuse a state without this tensor, or with one of another shape; ValueError."""
    if name not in state:
        raise ValueError(f"tables: '{name}' is missing; got {', '.join(sorted(state)) or 'nothing'}")
    if tuple(state[name].shape) != shape:
        raise ValueError(f"tables: '{name}' has shape {tuple(state[name].shape)}, allowed: {shape}")
