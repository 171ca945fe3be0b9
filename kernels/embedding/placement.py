"""Which process holds which table's rows, when several processes train one model (`kernels.table_sharding`).

Row-wise and table-wise tables are sharded by torchrec's DistributedModelParallel on an explicit plan. No planner
searches for one: a search that fails in one process leaves the others waiting for its answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from kernels.embedding.keys import KEYS
from kernels.table_sharding import KINDS, ROW_WISE, TABLE_WISE, Sharding, ShardingError

_MESSAGE_BYTES = 1_000

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Tables that are kept in one way.

    Attributes:
        kind: one of KINDS.
        owners: process of a group to its features, in the tables' order; row-wise and data-parallel tables stand
            under 0.
        group: processes of a group, as of `Sharding`.
    """

    kind: str
    owners: Mapping[int, tuple[str, ...]]
    group: int = 0


_asked: ContextVar[tuple[Sharding, set[str]] | None] = ContextVar("sharding", default=None)


@contextmanager
def sharded(sharding: Sharding) -> Iterator[None]:
    """Tables that are made inside are shared in this way, so that no architecture has to know of processes.

    Raises:
        ShardingError: at the end, a kind was asked for a feature of which no table was made.
    """
    made: set[str] = set()
    token = _asked.set((sharding, made))
    try:
        yield
    finally:
        _asked.reset(token)
    for feature in sharding.kinds:
        if feature not in made:
            raise ShardingError(
                f"sharding.kinds: got '{feature}', allowed: {', '.join(sorted(made)) or 'nothing'}"
            )


def parts(tables: Mapping[str, int], device: torch.device) -> list[Part]:
    """The parts in which these tables are kept, the same in all processes.

    Args:
        tables: feature to number of rows.
        device: where the tables live.

    Raises:
        ShardingError: the processes cannot share them so; in every process, when one of them says it, or is to plan
            otherwise than the others.
    """
    sharding, made = _asked.get() or (Sharding(), set())
    made.update(tables)
    if dist.get_world_size() == 1:
        return [Part(ROW_WISE, {0: tuple(tables)})]
    return together(
        lambda: _planned(tables, sharding, device), f"{sharding} of {dict(tables)} by {len(KEYS)} keys"
    )


def together(plan: Callable[[], T], facts: str) -> T:
    """What a plan says, when it has succeeded in all processes; a collective call.

    Without it a process that fails would leave the others waiting in the next collective call.

    Args:
        plan: computed by each process for itself.
        facts: what it is computed from; the same in all processes.

    Raises:
        ShardingError: in all of them, with the message of the first that failed, or when the facts differ.
    """
    found, said = None, ""
    try:
        found = plan()
    except ShardingError as error:
        said = str(error)
    failures = [text for text in _texts(said) if text]
    if failures:
        raise ShardingError(failures[0])
    if len(set(_texts(hashlib.sha256(facts.encode()).hexdigest()))) > 1:
        raise ShardingError(
            f"tables: process {dist.get_rank()} has {facts}, another one has others; allowed: the same settings, "
            "data and make of processor in all of them"
        )
    assert found is not None
    return found


def _texts(own: str) -> list[str]:
    """One short text of every process; as bytes, since torch gathers objects as pickles only."""
    data = own.encode()[:_MESSAGE_BYTES]
    padded = torch.tensor([*data, *bytes(_MESSAGE_BYTES - len(data))], dtype=torch.uint8)
    gathered = [torch.empty_like(padded) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, padded)
    return [bytes(text.tolist()).rstrip(b"\0").decode(errors="replace") for text in gathered]


def _planned(tables: Mapping[str, int], sharding: Sharding, device: torch.device) -> list[Part]:
    processes = dist.get_world_size()
    group = _group(sharding.group, processes, device)
    members = {kind: [name for name in tables if sharding.kind_of(name) == kind] for kind in KINDS}
    found = []
    for kind, names in members.items():
        if names:
            owners = owners_of({name: tables[name] for name in names}, group or processes)
            found.append(Part(kind, owners if kind == TABLE_WISE else {0: tuple(names)}, group))
    return found


def _group(group: int, processes: int, device: torch.device) -> int:
    """As asked for; 0 where one group is all processes."""
    if group in (0, processes):
        return 0
    if group < 0 or processes % group:
        raise ShardingError(
            f"sharding.group: got {group} with {processes} processes, allowed: 0 or a divisor of {processes}"
        )
    if device.type != "cuda":
        raise ShardingError(
            f"sharding.group: got {group} with {processes} processes on '{device.type}', allowed: 0 or {processes}. "
            "Copies of a group of processes (2-D sparse parallelism) are torchrec's DMPCollection, which runs on CUDA "
            "only"
        )
    return group


def owners_of(tables: Mapping[str, int], processes: int) -> dict[int, tuple[str, ...]]:
    """Process to its tables: the largest table first, each to the process with the fewest rows so far.

    Args:
        tables: feature to number of rows.
        processes: to share them.

    Returns:
        The processes that own a table, ascending, each with its tables in their order.
    """
    load, owner = [0] * processes, {}
    for name in sorted(tables, key=lambda name: -tables[name]):  # stable: equal ones keep their order
        owner[name] = load.index(min(load))
        load[owner[name]] += tables[name]
    found = {
        process: tuple(name for name in tables if owner[name] == process) for process in range(processes)
    }
    return {process: names for process, names in found.items() if names}
