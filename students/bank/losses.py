"""The members' losses: the very functions that train one student, on the logits and taps of all members.

They add up rows of the last two dimensions, and a channel's layers are stacked as the student's are. So a channel whose
student says [N, B, k] where one says [B, k] gives N losses where it gives one.

Shape letters: N members, B examples, k tasks.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from distill.batch import Batch
from distill.config import OptimizerConfig
from distill.losses import label_loss, sampled_logits
from distill.protocols import Architecture, Channel, Output
from students.bank.adam import BankAdam
from students.bank.members import ChannelStack
from students.bank.stacked import stack


class StackedChannel(nn.Module):
    """One channel of all members.

    Args:
        stacked: the channel; its form is changed.
        student: what the channel asks of a student: tasks and sampling.

    Attributes:
        has: bool [N], the members that have the channel.
        weights: float [N].
        own: the optimiser of what learns by itself; None where nothing does.

    Raises:
        UserError: a layer of the channel that has no stacked form.
    """

    has: Tensor
    weights: Tensor

    def __init__(self, stacked: ChannelStack, student: Architecture):
        super().__init__()
        self.register_buffer("has", stacked.has)
        self.register_buffer("weights", stacked.weights)
        self.everybody = bool(stacked.has.all())
        form = stack(stacked.form, stacked.tensors)
        assert isinstance(form, Channel)
        for name in form.reads_batch:
            setattr(form, name, _ForAll(getattr(form, name), len(stacked.has)))
        self.loss = _Loss(form, student)
        own = [parameter for name in form.reads_batch for parameter in getattr(form, name).parameters()]
        settings = OptimizerConfig(learning_rate=stacked.own_learning_rate)
        self.own = BankAdam([own], [settings] * len(stacked.has)) if own else None

    @property
    def form(self) -> Channel:
        """The channel with stacked layers."""
        return self.loss.channel

    def own_losses(self, batch: Batch) -> Tensor | None:
        """Losses [N] of what learns by itself, 0 for members without the channel; None where nothing is to learn."""
        losses = self.form.own_loss(batch) if self.own is not None else None
        return None if losses is None else torch.where(self.has, losses, 0)

    def own_step(self, losses: Tensor, alive: Tensor) -> None:
        """What `Channel.step` does, of the members that have the channel and are alive.

        Args:
            losses: what `own_losses` gave.
            alive: bool [N].
        """
        assert self.own is not None
        self.own.zero_grad()
        losses.backward(alive.to(losses.dtype))
        self.own.step((self.has & alive).nonzero().flatten().tolist())

    def forward(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Unweighted losses [N], 0 for members without the channel, and what is logged, [N] by name, NaN for those.

        Args:
            output: of all members: logits [N, B, k].
            batch: with what the channel needs.
        """
        if self.everybody:
            extra, logs = self.loss(output, batch)
        else:
            # The factor 0 alone would make NaN of an infinite loss, and of an infinite gradient.
            parameters = {name: self._where(tensor) for name, tensor in self.loss.named_parameters()}
            taps = {name: self._where(tap) for name, tap in output.taps.items()}
            extra, logs = functional_call(
                self.loss, parameters, (Output(self._where(output.logits), taps), batch)
            )
        logs = {name: torch.where(self.has, value, torch.nan) for name, value in logs.items()}
        return torch.where(self.has, extra, 0), logs

    def _where(self, of_members: Tensor) -> Tensor:
        """[N, ...], 0 and without gradient for a member without the channel."""
        return torch.where(self.has.view(-1, *[1] * (of_members.dim() - 1)), of_members, 0)


class _ForAll(nn.Module):
    """A stacked module that is handed the same rows [B, W] for all members; it gives [N, B, ...]."""

    def __init__(self, stacked: nn.Module, members: int):
        super().__init__()
        self.stacked, self.members = stacked, members

    def forward(self, rows: Tensor) -> Tensor:
        return self.stacked(rows.expand(self.members, *rows.shape))


class _Loss(nn.Module):
    """A channel's loss as a module's forward pass, the form in which parameters can be handed in."""

    def __init__(self, channel: Channel, student: Architecture):
        super().__init__()
        self.channel, self._student = channel, [student]

    def forward(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.channel.loss(output, batch, self._student[0])


def losses(
    output: Output, batch: Batch, student: Architecture, channels: Mapping[str, StackedChannel], members: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Each member's loss of a batch, as `DistillModule` adds it up: on rows of other surfaces, of channels alone.

    Args:
        output: of all members, folded: logits [N * B, k].
        batch: not folded, with what the channels need.
        student: tasks and sampling.
        channels: of all members.
        members: N.

    Returns:
        [N], and what is logged, [N] by name: NaN for members without the channel that it is of.
    """
    logits = output.logits.view(members, len(batch), -1)
    taps = {name: tap.view(members, len(batch), -1) for name, tap in output.taps.items()}
    total, logs = logits.new_zeros(members), {}
    if batch.own:
        labels, mask = batch.labels[:, student.task_index], batch.label_mask[:, student.task_index]
        total = logs["loss_labels"] = label_loss(sampled_logits(logits, student), labels, mask)
    for name, channel in channels.items():
        if not batch.own and not channel.form.other_surfaces:
            continue
        extra, logged = channel(Output(logits, taps), batch)
        total = total + channel.weights * extra
        logs |= {f"{name}/{key}": value for key, value in logged.items()}
    return total, logs
