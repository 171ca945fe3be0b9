"""Members of a bank, a few days of real rows, and the same students trained one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from adapters import auxiliary_head, raw_history, representation, sharing, student_adapter
from adapters.adapter_config import StudentAdapterConfig
from adapters.config import AuxiliaryHeadConfig
from adapters.representation_config import RawHistoryConfig, StoredRepresentationsConfig
from adapters.shared_tables import SharedTables
from adapters.sharing_config import SharingConfig
from distill import pfd, single
from distill.batch import Batch, Past, TeacherSignal
from distill.channel_config import PrivilegedFeaturesConfig, SingleConfig
from distill.config import OptimizerConfig
from distill.dataset import DataSet
from distill.module import DistillModule
from distill.other_surfaces import OthersFirst
from distill.protocols import Channel
from distill.sampling import mixed
from distill.schedule import DayPlan
from distill.sources.writer import PreparedWriter
from distill.stream import DayStream
from distill.training import DayCallback, DayData, fit
from kernels.embedding import Embedded
from kernels.embedding.wide_reference import ReferenceTables
from students.bank import Bank, BankModule, Member
from tests.distill.prepared_data import DENSE, day_table, small_schema
from tests.distill.tiny_training import Memory, Silence
from tests.students.models import KINDS

DAYS, ROWS, BATCH = 3, 60, 8
FEATURES = ("user_id", "item_id", "tags")


def write_days(folder: Path) -> DataSet:
    """Three days of 60 rows with a history store; every value is a simple rule of the row."""
    with PreparedWriter(folder, small_schema(DAYS), source="test", fingerprint="f" * 64) as writer:
        for day in range(1, DAYS + 1):
            writer.write_day(day, day_table(day, ROWS))
    return DataSet.open(folder)


@dataclass(frozen=True)
class One:
    """What sets a member apart.

    Attributes:
        seed: of student and channels.
        channels: channel to its settings.
        optimizer: settings that differ from the tests' usual ones.
    """

    seed: int = 0
    channels: dict[str, dict[str, Any]] = field(default_factory=dict)
    optimizer: dict[str, float] = field(default_factory=dict)

    @property
    def settings(self) -> OptimizerConfig:
        return OptimizerConfig(
            **({"batch_size": BATCH, "learning_rate": 0.01, "table_learning_rate": 0.1} | self.optimizer)  # type: ignore[arg-type]
        )


BUILD_CHANNEL: dict[str, tuple[Any, Any]] = {
    "single": (single.build, SingleConfig),
    "pfd": (pfd.build, PrivilegedFeaturesConfig),
    "ah": (auxiliary_head.build, AuxiliaryHeadConfig),
    "adapter": (student_adapter.build, StudentAdapterConfig),
    "repr": (representation.build, StoredRepresentationsConfig),
    "rawid": (raw_history.build, RawHistoryConfig),
    "sharing": (sharing.build, SharingConfig),
}


def make(
    kind: str,
    data: DataSet,
    one: One,
    double: bool,
    dense_features: tuple[str, ...] = DENSE,
    **options: Any,
) -> Member:
    """A member as the pipeline builds a student; in double precision its tables are the reference's."""
    channels: dict[str, Channel] = {}
    for name, settings in one.channels.items():
        build_channel, config = BUILD_CHANNEL[name]
        channels[name] = build_channel(config(**settings), schema=data.schema, seed=one.seed)
    build, config = KINDS[kind]
    model = build(
        config(**({"dim": 4, "mlp": [6, 5]} | options)),
        schema=data.schema,
        tasks=data.schema.task_names,
        features=FEATURES,
        dense_features=dense_features,
        seed=one.seed,
        table_learning_rate=one.settings.table_learning_rate,
        extra_fields=sum(len(channel.fields) for channel in channels.values()),
        extra_history=max((channel.history_length for channel in channels.values()), default=0),
    )
    rates = {task: torch.tensor([0.3, 0.2], dtype=torch.float64) for task in data.schema.task_names}
    for channel in channels.values():
        channel.attach(model)
    for part in (model, *channels.values()):
        part.set_base_rates(rates)
    if double:
        in_double(model, one, channels)
    return Member(model, channels, one.settings)


def in_double(model: Any, one: One, channels: dict[str, Channel]) -> None:
    sizes = {name: model.schema.sparse[name].size for name in FEATURES}
    item = model.schema.item_feature if model.history_length else None
    model.tables = ReferenceTables(sizes, model.tables.dim, one.seed, one.settings.table_learning_rate, item)
    for part in (model, *channels.values()):
        part.double()
    for module in model.inputs.values():
        if isinstance(module, SharedTables):  # frozen rows: it is enough to read them in double precision
            module.tables.register_forward_hook(
                lambda tables, ids, found: Embedded(found.features.double(), None)
            )


class Days(IterableDataset):
    """A day's batches with a teacher's signal and past made of the example's id, in the precision asked for."""

    def __init__(self, stream: DayStream | OthersFirst, double: bool):
        super().__init__()
        self.stream, self.double = stream, double

    def __len__(self) -> int:
        return len(self.stream)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.stream:
            kind = torch.float64 if self.double else torch.float32
            past = {"user": past_of(batch, 3, kind), "item": past_of(batch, 2, kind)}
            yield replace(batch, dense=batch.dense.to(kind), teacher=signal(batch, kind), past=past)


def past_of(batch: Batch, lengths: int, kind: torch.dtype) -> Past:
    """Example i has (i // 2) % `lengths` representations of width 6."""
    count = batch.example_id // 2 % lengths
    of_rows = batch.example_id.repeat_interleave(count)
    place = torch.arange(len(of_rows))
    values = torch.sin((of_rows % 97 + place).unsqueeze(1) * torch.arange(1, 7)).to(kind)
    offsets = torch.cat([count.new_zeros(1), count.cumsum(0)])
    return Past(offsets, values, batch.timestamp.repeat_interleave(count) - 90_000 * (place % 5 + 1))


def signal(batch: Batch, kind: torch.dtype) -> TeacherSignal:
    """Logits between -2 and 2 by the id's hash, on three rows of four."""
    bits = torch.from_numpy(mixed(batch.example_id.numpy()).astype("int64"))
    logits = torch.stack([(bits >> place) % 401 for place in (3, 23)], dim=1).to(kind) / 100 - 2
    mask = (bits >> 45) % 4 > 0
    return TeacherSignal(logits * mask[:, None], mask, mask.float())


def days_of(
    data: DataSet, history_length: int, double: bool, domains: Sequence[str] | None = None
) -> Callable[[int, bool], IterableDataset]:
    """What `DayData` asks for."""
    return lambda day, training: Days(
        DayStream(data, day, BATCH, FEATURES, DENSE, history_length=history_length, domains=domains), double
    )


PLAN = DayPlan((1, 2), {1: (2,), 2: (3,)})


class Uncounted(DistillModule):
    """Counts no FLOPs: that is a step aside, which the reference's tables do not know to be aside."""

    def count_flops(self, batch: Batch) -> list[float]:
        return [1.0]


def callback() -> DayCallback:
    """Of a training that shows nothing."""
    return DayCallback(PLAN, Silence(), {}, "bank")


def fit_alone(member: Member, data: DataSet, double: bool, domains: Sequence[str] | None = None) -> Memory:
    """One student through the real trainer."""
    memory = Memory()
    kind = Uncounted if double else DistillModule
    module = kind(member.model, member.channels, member.optimizer, memory)
    days = days_of(data, member.model.history_length, double, domains)
    fit(module, DayData(days, PLAN), callback())
    return memory


def fit_bank(makes: Sequence[Callable[[], Member]], data: DataSet, double: bool) -> tuple[Bank, list[Memory]]:
    """All of them through the same trainer, as one bank."""
    bank = Bank(makes)
    memories = [Memory() for _ in makes]
    module = BankModule([bank], [memories])
    fit(module, DayData(days_of(data, bank.history_length, double), PLAN), callback())
    return bank, memories


def state_of(member: Member) -> dict[str, Tensor]:
    """A student's parameters, tables and moments."""
    state = {name: parameter.detach() for name, parameter in member.model.named_parameters()}
    return state | {f"tables.{name}": tensor for name, tensor in member.model.tables.export().items()}
