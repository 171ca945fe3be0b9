"""The members' losses: the very functions that train one student, mapped over the members (torch.func.vmap).

Shape letters: N members, B examples, k tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from distill.batch import Batch
from distill.losses import label_loss, sampled_logits
from distill.protocols import Architecture, Channel, Output
from students.bank.members import ChannelStack


class StackedChannel(nn.Module):
    """One channel of all members: its loss as a function of one member's tensors, and everybody's.

    Args:
        stack: the channel.
        student: what the channel asks of a student: tasks and sampling.

    Attributes:
        has: bool [N], the members that have the channel; what it says of the others is of no use.
        weights: float [N].
        loss: (output, batch) of one member to the unweighted loss and what is logged.
    """

    has: Tensor
    weights: Tensor

    def __init__(self, stack: ChannelStack, student: Architecture):
        super().__init__()
        self.register_buffer("has", stack.has)
        self.register_buffer("weights", stack.weights)
        self._loss = [_Loss(stack.form, student)]  # in a list: the parameters are those below
        for name, tensor in stack.tensors.items():
            self.register_parameter(name.replace(".", "/"), nn.Parameter(tensor))

    @property
    def loss(self) -> nn.Module:
        return self._loss[0]

    def tensors(self) -> dict[str, Tensor]:
        """Parameters of all members, [N, ...], by their names in `loss`."""
        return {f"channel.{name.replace('/', '.')}": tensor for name, tensor in self.named_parameters()}


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
    """Each member's loss of a batch, as `DistillModule` adds it up.

    Args:
        output: of all members, folded: logits [N * B, k].
        batch: not folded, with what the channels need.
        student: tasks and sampling.
        channels: of all members.
        members: N.

    Returns:
        [N], and what is logged, [N] by name: NaN for members without the channel that it is of.
    """

    def folded(x: Tensor) -> Tensor:
        return x.view(members, len(batch), -1)

    labels, mask = batch.labels[:, student.task_index], batch.label_mask[:, student.task_index]

    def of_member(
        logits: Tensor, taps: dict[str, Tensor], tensors: Mapping[str, Any], has: Mapping[str, Tensor]
    ) -> tuple[Tensor, Any]:
        extras = {}
        for name, own in tensors.items():
            # Both ways: the factor 0 alone would make NaN of an infinite loss, and of an infinite gradient.
            one, own = (
                _where(has[name], Output(logits, taps), own) if name in has else (Output(logits, taps), own)
            )
            extras[name] = functional_call(channels[name].loss, own, (one, batch))
        return label_loss(sampled_logits(logits, student), labels, mask), extras

    tensors = {name: channel.tensors() for name, channel in channels.items()}
    taps = {name: folded(tap) for name, tap in output.taps.items()}
    partial = {name: channel.has for name, channel in channels.items() if not bool(channel.has.all())}
    total, extras = vmap(of_member)(folded(output.logits), taps if channels else {}, tensors, partial)
    logs = {"loss_labels": total}
    for name, (extra, logged) in extras.items():
        has = channels[name].has
        total = total + channels[name].weights * torch.where(has, extra, 0)
        logs |= {f"{name}/{key}": torch.where(has, value, torch.nan) for key, value in logged.items()}
    return total, logs


def _where(has: Tensor, output: Output, tensors: Mapping[str, Tensor]) -> tuple[Output, dict[str, Tensor]]:
    """What a channel reads, 0 and without gradient for a member without it."""
    logits, taps = torch.where(has, output.logits, 0), output.taps
    return (
        Output(logits, {name: torch.where(has, tap, 0) for name, tap in taps.items()}),
        {name: torch.where(has, tensor, 0) for name, tensor in tensors.items()},
    )
