"""Who joins a bank: students of one shape and of one stream, whose channels differ in nothing but their weight.

Shape letters: N members.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from distill.config import OptimizerConfig
from distill.errors import UserError
from distill.protocols import Architecture, Channel
from kernels.embedding import WideTables
from students.bank.shape import shape_of
from students.base import Student


@dataclass(frozen=True)
class Member:
    """A student as it would be trained alone, before its first step.

    Attributes:
        model: the student.
        channels: by name; attached to it, and started at the base rates.
        optimizer: how it is trained; all but the batch size may differ from member to member.
    """

    model: Architecture
    channels: Mapping[str, Channel]
    optimizer: OptimizerConfig


@dataclass(frozen=True)
class ChannelStack:
    """One channel of all members.

    Attributes:
        form: the channel of some member, with weight 1.
        has: bool [N], the members that have the channel.
        weights: float [N], 0 for a member without the channel.
        tensors: name of the form's parameter to those of all members, [N, ...].
        own_learning_rate: of what learns by itself; 0 where nothing does.
    """

    form: Channel
    has: Tensor
    weights: Tensor
    tensors: dict[str, Tensor]
    own_learning_rate: float


@dataclass
class Gathered:
    """All members, side by side.

    Attributes:
        first: the first member's student, without its tables.
        tables: of all.
        settings: of all.
        dense: one mapping a member, its parameters by name.
        channels: one mapping a member.
    """

    first: Student
    tables: WideTables
    settings: list[OptimizerConfig] = field(default_factory=list)
    dense: list[dict[str, Tensor]] = field(default_factory=list)
    channels: list[Mapping[str, Channel]] = field(default_factory=list)

    def stacked(self) -> dict[str, Tensor]:
        """Name of a student's parameter to those of all members, [N, ...]."""
        return _stacked(self.dense)

    def channel_stacks(self) -> dict[str, ChannelStack]:
        """Channels of any member by name.

        Raises:
            UserError: two members' channels of one name differ in more than their weight.
        """
        names = dict.fromkeys(name for channels in self.channels for name in channels)
        return {name: self._channel(name) for name in names}

    def _channel(self, name: str) -> ChannelStack:
        (form, *_) = (channels[name] for channels in self.channels if name in channels)
        for place, channels in enumerate(self.channels):
            if name in channels and _rest(channels[name]) != _rest(form):
                raise UserError(
                    f"bank: channel '{name}' of member {place}: got {_rest(channels[name])}, allowed: {_rest(form)}, "
                    "as of the others; the weight alone may differ"
                )
        has = torch.tensor([name in channels for channels in self.channels])
        weights = [_weight(channels[name]) if name in channels else 0.0 for channels in self.channels]
        tensors = _stacked([dict(channels.get(name, form).named_parameters()) for channels in self.channels])
        if hasattr(form.config, "weight"):
            form.config = replace(_config(form), weight=1.0)
        rate = _config(form).learning_rate if form.reads_batch else 0.0
        return ChannelStack(form, has, torch.tensor(weights, dtype=self.tables.weight.dtype), tensors, rate)


def gather(makes: Sequence[Callable[[], Member]]) -> Gathered:
    """Make the members one after the other, so that no two have tables of their own at the same time.

    Args:
        makes: one function a member.

    Raises:
        UserError: no member, members of different shapes, or one that no bank can train.
    """
    if not makes:
        raise UserError("bank: got no member, allowed: at least one")
    gathered = None
    for place, make in enumerate(makes):
        member = make()
        student = _trainable(member, place)
        shape = shape_of(student, member.optimizer) | {"other_surfaces": _of_other_surfaces(member.channels)}
        if gathered is None:
            first_shape, gathered = shape, Gathered(student, _empty_tables(student, len(makes)))
        _check_same(first_shape, shape, place)
        gathered.tables.load(place, student.tables.export())
        gathered.tables.set_learning_rate(place, member.optimizer.table_learning_rate)
        gathered.settings.append(member.optimizer)
        gathered.dense.append(dict(student.named_parameters()))
        gathered.channels.append(member.channels)
        del student.tables
        if place:
            student.inputs.clear()  # there may be tables among them
    assert gathered is not None
    return gathered


def _empty_tables(student: Student, members: int) -> WideTables:
    return WideTables(
        {name: student.schema.sparse[name].size for name in student.features},
        student.tables.dim,
        [0.0] * members,
        history_feature=student.schema.item_feature if student.history_length else None,
        dtype=next(student.parameters()).dtype,
    )


def _trainable(member: Member, place: int) -> Student:
    model = member.model
    if not isinstance(model, Student):
        raise UserError(
            f"bank: member {place}: got {type(model).__name__}, allowed: architectures that start at "
            "`students.base.Student`. Train it by itself"
        )
    for name, channel in member.channels.items():
        if not channel.in_banks:
            raise UserError(
                f"bank: member {place}: got channel '{name}' with these settings, allowed: channels that several "
                "students can learn by at once. Train it by itself"
            )
    _check_parameters(model, place)
    if model.content:
        raise UserError(
            f"bank: member {place}: got content {', '.join(model.content)}, allowed: none. Train it by itself"
        )
    return model


def _of_other_surfaces(channels: Mapping[str, Channel]) -> dict[str, float]:
    """Share of the other surfaces' rows, by the channels that learn from them: on those rows nothing else may learn."""
    return {name: channels[name].other_surfaces for name in sorted(channels) if channels[name].other_surfaces}


def _check_parameters(model: Student, place: int) -> None:
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if names != trained:
        others = ", ".join(name for name in names if name not in trained)
        raise UserError(
            f"bank: member {place}: got fixed or shared parameters {others}, allowed: trained ones, each of one layer. "
            "Train it by itself"
        )


def _check_same(first: Mapping[str, Any], other: Mapping[str, Any], place: int) -> None:
    for name in dict.fromkeys([*first, *other]):
        if first.get(name) != other.get(name):
            raise UserError(
                f"bank: member {place}: {name}: got {other.get(name)}, allowed: {first.get(name)}, as of the first "
                "member. Students of another shape need a bank of their own"
            )


def _rest(channel: Channel) -> dict[str, Any]:
    """A channel's class and settings without its weight."""
    settings = {name: value for name, value in asdict(_config(channel)).items() if name != "weight"}
    return {"channel": type(channel).__qualname__} | settings


def _weight(channel: Channel) -> float:
    return getattr(_config(channel), "weight", 1.0)


def _config(channel: Channel) -> Any:
    """A channel's settings, a dataclass; with a learning rate where something learns by itself."""
    return channel.config


def _stacked(members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([tensors[name].detach() for tensors in members]) for name in members[0]}
