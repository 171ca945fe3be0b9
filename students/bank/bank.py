"""A bank: N students of one shape that are trained as one, on one stream of batches.

They share what does not depend on them: decoded data, histories, the teacher's log, the look-up's sort. Their own are
parameters, tables, optimiser settings, the channels' weights. Each member ends where it would end alone.

Shape letters: N members, B examples, F fields, D width of the tables, T history events, k tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.errors import UserError
from distill.protocols import Channel, Output
from kernels.embedding import Embedded, History
from students.bank import deepfm, probe
from students.bank.adam import BankAdam
from students.bank.heap import keep_freed_memory
from students.bank.losses import StackedChannel, losses
from students.bank.members import Member, gather
from students.bank.stacked import FoldedBatch
from students.bank.trunk import Given, fold, pooled_by_tables, trunk_of
from students.base import Student
from students.deepfm import DeepFM


class Bank(nn.Module):
    """N students in one.

    A member whose loss or gradient is not finite is frozen: it stays as it is, `frozen` says why, and the others go on
    as if it had never been there. Where it is the dense gradient, the rows of its tables have taken that step already:
    they are updated in the backward pass.

    Args:
        makes: one function a member, called one after the other; the first once more, for `plain`.

    Attributes:
        size: N.
        settings: of the members.
        frozen: member to what happened to it, in words.
        tables: of all members.
        trunk: the student whose layers are stacked; it reads folded batches.
        plain: a student of this shape, with the parameters that the first member had before its first step.

    Raises:
        UserError: no member, members of different shapes, or one that no bank can train.
    """

    def __init__(self, makes: Sequence[Callable[[], Member]]):
        super().__init__()
        keep_freed_memory()
        members = gather(makes)
        student = members.first
        self.size, self.settings = len(makes), members.settings
        self.history_length, self.pooling = student.history_length, pooled_by_tables(student)
        self.tables = members.tables
        given = Given()
        self.trunk = trunk_of(student, members.stacked(), self.size, given, self.pooling is not None)
        self._given = given
        # A subclass may do anything in its forward pass.
        pooled = self.pooling is not None or not self.history_length
        self._fused = type(student) is DeepFM and pooled and not student.extra_fields
        stacks = members.channel_stacks().items()
        self.channels = nn.ModuleDict({name: StackedChannel(channel, self.trunk) for name, channel in stacks})
        parts = [list(self.trunk.parameters())]
        parts += [list(channel.dense_parameters()) for channel in self.forms.values()]
        self.adam = BankAdam([part for part in parts if part], self.settings)
        self.frozen: dict[int, str] = {}
        self.sums: dict[str, Tensor] = {}
        self.summed: dict[str, Tensor] = {}
        # In a list: it is no part of this module, whose parameters are the members'.
        self._plain, self._checked = [makes[0]().model], False

    @property
    def plain(self) -> Student:
        student = self._plain[0]
        assert isinstance(student, Student)
        return student

    @property
    def forms(self) -> dict[str, Channel]:
        """The channels of all members by name, with stacked layers: whoever trains the bank calls their `begin_day`."""
        return {name: channel.form for name, channel in self._stacked_channels().items()}

    @property
    def alive(self) -> list[int]:
        """Members that are trained."""
        return [member for member in range(self.size) if member not in self.frozen]

    def forward(self, batch: Batch) -> Output:
        """Logits [N * B, k] and taps [N * B, width] of all members, one after the other."""
        return self._say(self._look_up(batch), self._folded(batch))

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """Logits of all members, [N, B, k]; what a frozen one says is of no use."""
        return self(batch).logits.view(self.size, len(batch), -1)

    def step(self, batch: Batch, index: int = 0) -> None:
        """Train all members that are alive on a batch; nobody, where none is.

        Args:
            batch: what the students read, and what their channels need.
            index: of the batch in its day, for messages.

        Raises:
            UserError: the architecture does not compute every row by itself.
        """
        if not self.alive:
            return
        if not self._checked:
            self._check_rows(batch)
        place = f"on day {batch.day}, batch {index} (examples {batch.example_id[0].item()} and following)"
        output = self(batch)
        self._step_channels(batch, place)
        self.adam.zero_grad()
        loss, logs = losses(output, batch, self.trunk, self._stacked_channels(), self.size)
        self._freeze(~loss.detach().isfinite(), "loss", loss, place)
        loss.backward(self.tables.alive.to(loss.dtype))
        self._note_frozen_tables(place)
        norms = self.adam.clip()
        self._freeze(~norms.isfinite(), "norm of the dense gradient", norms, place)
        self.adam.step(self.alive)
        self._count(logs)

    def export(self, member: int) -> dict[str, Tensor]:
        """A member as the state of a plain student, for its `load_state_dict`; what only training needs is left out."""
        state = {name: tensor.clone() for name, tensor in self._of_trunk(member).items()}
        return state | {f"tables.{name}": tensor for name, tensor in self.tables.export(member).items()}

    def get_extra_state(self) -> dict[str, Any]:
        """What `state_dict` holds beside parameters and tables, so that training goes on from it."""
        return {
            "adam": {name: adam.state() for name, adam in self._optimizers().items()},
            "frozen": dict(self.frozen),
            "channels": {name: channel.training_state() for name, channel in self._fixed_forms().items()},
            "sums": {name: total.clone() for name, total in self.sums.items()},
            "summed": {name: steps.clone() for name, steps in self.summed.items()},
            "checked": self._checked,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what `get_extra_state` gave."""
        for name, adam in self._optimizers().items():
            adam.load(state["adam"][name])
        for name, channel in self._fixed_forms().items():
            channel.load_training_state(state["channels"][name])
        self.frozen, self._checked = dict(state["frozen"]), state["checked"]
        self.sums, self.summed = dict(state["sums"]), dict(state["summed"])

    def means(self) -> dict[str, Tensor]:
        """Means of what was logged since `take_means`, over each member's steps that logged it: float64 [N] by name.

        NaN for a member without steps, or without the channel that the name is of.
        """
        return {name: total / self.summed[name] for name, total in self.sums.items()}

    def take_means(self) -> dict[str, Tensor]:
        """`means`, which begin anew."""
        means = self.means()
        self.sums, self.summed = {}, {}
        return means

    def _look_up(self, batch: Batch) -> Embedded:
        """Features [N, B, F, D] and events [N, T, D] of all members."""
        assert batch.shared is None, "a batch whose examples share histories is for serving, not for a bank"
        history = batch.history
        if not self.history_length:
            return Embedded(self.tables(batch.sparse).features, None)
        assert history is not None, "the batch carries no history"
        if self.pooling is not None:
            events = History(history.item, history.offsets, self.pooling == "mean")
            return Embedded(self.tables.pooled(batch.sparse, events), None)
        return self.tables(batch.sparse, history.item)

    def _folded(self, batch: Batch) -> Batch:
        """The batch's examples once for every member, as far as a student's layers read them."""
        return FoldedBatch.of(batch, self.size, events=bool(self.history_length) and self.pooling is None)

    def _say(self, embedded: Embedded, folded: Batch) -> Output:
        """What the trunk says of looked-up rows, folded or not."""
        if self._fused:
            assert isinstance(self.trunk, DeepFM)
            features = embedded.features.view(self.size, -1, *embedded.features.shape[-2:])
            return deepfm.output(self.trunk, features, folded)
        self._given.embedded = fold(embedded)
        return self.trunk(folded)

    def _optimizers(self) -> dict[str, BankAdam]:
        """The students', and by channel those of what learns by itself."""
        own = {name: channel.own for name, channel in self._stacked_channels().items()}
        return {"students": self.adam} | {name: adam for name, adam in own.items() if adam is not None}

    def _fixed_forms(self) -> dict[str, Channel]:
        """Channels whose own state is no optimiser's, which the bank has in their place."""
        channels = self._stacked_channels().items()
        return {name: channel.form for name, channel in channels if channel.own is None}

    def _step_channels(self, batch: Batch, place: str) -> None:
        """What learns by itself learns before the students do."""
        for name, channel in self._stacked_channels().items():
            losses = channel.own_losses(batch) if batch.own or channel.form.other_labels else None
            if losses is not None:
                self._freeze(~losses.detach().isfinite(), f"{name}: loss of the target", losses, place)
                channel.own_step(losses, self.tables.alive)

    def _stacked_channels(self) -> dict[str, StackedChannel]:
        return {name: one for name, one in self.channels.items() if isinstance(one, StackedChannel)}

    @torch.no_grad()
    def _check_rows(self, batch: Batch) -> None:
        """Once, as soon as a member can be looked at: the bank must say of it what a plain student says."""
        healthy = self._healthy()
        if not healthy.any():
            return
        rows = healthy.repeat_interleave(len(batch))
        embedded, folded = fold(self._look_up(batch)), self._folded(batch)
        factor = probe.factor_of(embedded, rows)
        embedded = probe.scaled(embedded, factor)
        member = int(healthy.nonzero()[0])
        here = probe.taken(self._say(embedded, folded), slice(member * len(batch), (member + 1) * len(batch)))
        alone = self._alone(member, batch, factor)
        if alone.own_loss is not None:
            raise self._refusal("adds a loss of its own, which a bank does not read")
        if not probe.agree(alone, here):
            raise self._refusal("says something else in a bank than by itself")
        if not probe.rows_are_alone(self._say, embedded, folded, rows):
            raise self._refusal("says something else of a row when the others of its batch change")
        self._checked = True

    def _healthy(self) -> Tensor:
        """bool [N], members that are alive and whose parameters are finite."""
        finite = [parameter.flatten(1).isfinite().all(1) for parameter in self.trunk.parameters()]
        return self.tables.alive & torch.stack(finite).all(0)

    def _alone(self, member: int, batch: Batch, factor: float) -> Output:
        """What a plain student of a member's parameters says."""
        self.plain.load_state_dict(self._of_trunk(member), strict=False)
        self.plain.tables.load(self.tables.export(member))
        self.plain.train(self.trunk.training)
        with probe.scaled_tables(self.plain.tables, factor):
            return self.plain(batch)

    def _of_trunk(self, member: int) -> dict[str, Tensor]:
        """The state of a member's student but its tables: its parameters, and what is the same for all; not copied."""
        own = {name for name, _ in self.trunk.named_parameters()}
        state = self.trunk.state_dict()
        return {name: tensor[member] if name in own else tensor for name, tensor in state.items()}

    def _refusal(self, what: str) -> UserError:
        return UserError(
            f"bank: {type(self.plain).__name__} {what}, allowed: architectures that compute every row by itself, from "
            "what the tables look up. Train these students one by one"
        )

    def _freeze(self, bad: Tensor, what: str, values: Tensor, place: str) -> None:
        for member in bad.nonzero().flatten().tolist():
            if member not in self.frozen:
                self.frozen[member] = f"{what} is {values[member].item()} {place}"
                self.tables.freeze(member)

    def _note_frozen_tables(self, place: str) -> None:
        """The tables freeze a member themselves, before they would take its gradient."""
        for member in (~self.tables.alive).nonzero().flatten().tolist():
            self.frozen.setdefault(member, f"embedding gradient is NaN or infinite {place}")

    def _count(self, logs: Mapping[str, Tensor]) -> None:
        alive = self.tables.alive
        for name, values in logs.items():
            values = torch.where(alive, values.detach().double(), 0)
            self.sums[name] = self.sums[name] + values if name in self.sums else values
            self.summed[name] = self.summed[name] + alive if name in self.summed else alive.long()
