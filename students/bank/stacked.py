"""Layers of N members as one layer: their parameters stacked, their batches folded into one of N * B rows.

A student computes every row by itself. So N students on the same B examples are one student on N * B rows, member by
member, whose layers take each member's rows by that member's parameters. All else in its forward pass, written for
one student, holds for the folded rows as it stands, custom gradients included.

Shape letters: N members, B examples, T history events, D embedding dim, W and V widths, H hidden width of DIN's unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from distill.batch import Batch, Events
from distill.errors import UserError
from distill.protocols import Stackable
from kernels.segments import Segments, spread
from students.blocks import ActivationUnit, PReLU
from students.din import EventContext

Tensors = Mapping[str, Tensor]


class StackedLinear(nn.Module):
    """N linear layers: rows [N * R, ..., V], member by member, to [N * R, ..., W].

    Args:
        weight: [N, W, V].
        bias: [N, W] or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return _Linear.apply(x, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    """x W^T + b by member. Autograd's own gradient of W would come transposed, and be copied once more.

    The rows come back folded, and as no view: where an activation then works in place, autograd would copy them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows, turned = by_member(x, len(weight)), weight.transpose(1, 2)
        ctx.save_for_backward(rows, weight)
        ctx.has_bias, ctx.shape = bias is not None, x.shape
        folded = x.new_empty(*x.shape[:-1], weight.size(1))
        out = by_member(folded, len(weight))
        if bias is None:
            torch.bmm(rows, turned, out=out)
        else:
            torch.baddbmm(bias.unsqueeze(1), rows, turned, out=out)
        return folded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        rows, weight = ctx.saved_tensors
        gradient = by_member(gradients[0], len(weight))
        of_x = torch.bmm(gradient, weight).view(ctx.shape) if ctx.needs_input_grad[0] else None
        of_weight = torch.bmm(gradient.transpose(1, 2), rows)
        return of_x, of_weight, gradient.sum(1) if ctx.has_bias else None


class StackedPReLU(nn.Module):
    """`students.blocks.PReLU` of N members.

    Args:
        slope: [N, W].
    """

    def __init__(self, slope: Tensor):
        super().__init__()
        self.slope = nn.Parameter(slope)

    def forward(self, x: Tensor) -> Tensor:
        rows = by_member(x, len(self.slope))
        return torch.addcmul(rows, rows.clamp_max(0), self.slope.unsqueeze(1) - 1).view(x.shape)


class StackedActivationUnit(nn.Module):
    """`students.blocks.ActivationUnit` of N members, folded in the same way.

    Args:
        unit: gives the form.
        tensors: its stacked parameters by name.
    """

    def __init__(self, unit: ActivationUnit, tensors: Tensors, prefix: str):
        super().__init__()
        self.first = StackedLinear(tensors[f"{prefix}first.weight"], tensors[f"{prefix}first.bias"])
        self.between = stack(unit.between, tensors, f"{prefix}between.")
        self.activation = stack(unit.activation, tensors, f"{prefix}activation.")
        self.last = StackedLinear(tensors[f"{prefix}last.weight"], tensors[f"{prefix}last.bias"])

    def forward(self, events: Tensor, target: Tensor, segments: Segments) -> Tensor:
        """Weights [N * T] of events [N * T, D] beside targets [N * B, D]."""
        first, activation, last = self.first, self.activation, self.last
        assert isinstance(activation, StackedPReLU)
        members = len(first.weight)
        of_event, of_target, of_difference, of_product = first.weight.chunk(4, dim=2)
        once = _affine(by_member(target, members), of_target - of_difference, first.bias)
        x = by_member(spread(once.flatten(0, 1), segments), members)
        products = by_member(events * spread(target, segments), members)
        x = torch.baddbmm(x, by_member(events, members), (of_event + of_difference).transpose(1, 2))
        x = torch.baddbmm(x, products, of_product.transpose(1, 2))
        x = by_member(self.between(x.flatten(0, 1)), members)
        slope = activation.slope.unsqueeze(1)
        falling = _affine(x, last.weight * slope, last.bias)
        return (falling + _affine(x.relu(), last.weight * (1 - slope), None)).flatten()


class StackedEventContext(nn.Module):
    """`students.din.EventContext` of N members.

    Args:
        context: gives the form.
        vectors: [N, S + 2 * K, D].
    """

    def __init__(self, context: EventContext, vectors: Tensor):
        super().__init__()
        self.domains = context.domains
        self.vectors = nn.Parameter(vectors)

    def forward(self, history: Events, events: Tensor) -> Tensor:
        assert isinstance(history, FoldedEvents)
        members = len(self.vectors)
        flags = history.once.flags(self.domains, events.dtype).expand(members, -1, -1)
        return torch.baddbmm(by_member(events, members), flags, self.vectors).view(events.shape)


@dataclass(frozen=True)
class FoldedEvents(Events):
    """The same events for each of N members, one member after the other.

    Attributes:
        once: the events of one member.
    """

    once: Events

    @classmethod
    def of(cls, events: Events, members: int) -> FoldedEvents:
        """Fold a batch's events.

        Args:
            events: of B examples.
            members: N.
        """
        starts = events.item.numel() * torch.arange(members, device=events.offsets.device)
        offsets = (events.offsets[:-1] + starts.unsqueeze(1)).flatten()
        offsets = torch.cat([offsets, offsets.new_tensor([events.item.numel() * members])])
        return cls(
            offsets=offsets,
            item=events.item.repeat(members),
            time=events.time.repeat(members),
            domain=events.domain.repeat(members),
            labels=events.labels.repeat(members, 1),
            once=events,
        )

    def last(self, length: int, rows: Tensor) -> tuple[Events, Tensor]:
        """As of one member's events, folded; rows [N * T, W]."""
        members = (self.offsets.numel() - 1) // (self.once.offsets.numel() - 1)
        events, kept = self.once.last(length, by_member(rows, members))
        return FoldedEvents.of(events, members), kept.flatten(0, 1)


@dataclass(frozen=True)
class FoldedBatch(Batch):
    """The same examples for each of N members, one member after the other, as far as a student's layers read them.

    Attributes:
        once: the batch of one member.
    """

    once: Batch | None = None

    @classmethod
    def of(cls, batch: Batch, members: int, events: bool) -> FoldedBatch:
        """Fold a batch.

        Args:
            batch: of B examples.
            members: N.
            events: fold its history, too; otherwise there is none.
        """
        columns: dict[str, Any] = {name: getattr(batch, name).repeat(members) for name in _COLUMNS}
        columns["dense"] = batch.dense.repeat(members, 1)
        columns["history"] = FoldedEvents.of(batch.history, members) if events and batch.history else None
        return cls(**(vars(batch) | columns), once=batch)


_COLUMNS = ("example_id", "user_id", "timestamp", "domain")


def by_member(x: Tensor, members: int) -> Tensor:
    """Folded rows [N * R, ..., W] as [N, R * ..., W]."""
    return x.reshape(members, math.prod(x.shape[:-1]) // members, x.size(-1))


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product = torch.bmm(x, weight.transpose(1, 2))
    return product if bias is None else product + bias.unsqueeze(1)


STACKED: dict[type[nn.Module], Callable[[Any, Tensors, str], nn.Module]] = {
    nn.Linear: lambda layer, tensors, at: StackedLinear(tensors[f"{at}weight"], tensors.get(f"{at}bias")),
    PReLU: lambda layer, tensors, at: StackedPReLU(tensors[f"{at}slope"]),
    ActivationUnit: lambda layer, tensors, at: StackedActivationUnit(layer, tensors, at),
    EventContext: lambda layer, tensors, at: StackedEventContext(layer, tensors[f"{at}vectors"]),
}
"""Layer to what makes its stacked form of (the layer, all stacked parameters by name, the start of its own names)."""


def stack(module: nn.Module, tensors: Tensors, prefix: str = "") -> nn.Module:
    """Put stacked layers in the place of one member's, under the same names; the module itself is changed.

    Args:
        module: of one member.
        tensors: name of each of its parameters to those of all members, [N, ...].
        prefix: start of its parameters' names.

    Returns:
        The stacked layer, or the module with such layers in it.

    Raises:
        UserError: a layer that has no stacked form, or draws random numbers in training.
    """
    if type(module) in STACKED:
        return STACKED[type(module)](module, tensors, prefix)
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if isinstance(module, Stackable):
        for name in own:
            setattr(module, name, nn.Parameter(tensors[f"{prefix}{name}"]))
    elif own or _persistent_buffers(module) or isinstance(module, _DropoutNd) and module.p:
        raise UserError(
            f"bank: layer '{prefix.removesuffix('.')}' ({type(module).__name__}) has no stacked form, allowed: "
            f"{', '.join(kind.__name__ for kind in STACKED)}, what is Stackable, and layers without parameters, state "
            "and random numbers. Train these students one by one"
        )
    for name, child in module.named_children():
        setattr(module, name, stack(child, tensors, f"{prefix}{name}."))
    return module


def _persistent_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    """What a layer keeps from step to step, such as running means; constants are not saved."""
    constants = module._non_persistent_buffers_set
    return [(name, buffer) for name, buffer in module.named_buffers(recurse=False) if name not in constants]
