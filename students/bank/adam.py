"""Adam of N members on their stacked parameters, each with settings of its own.

A member's share of a stacked parameter is a tensor of its own to the fused operator, so that a member is computed as it
would be alone, whoever else is there; members of equal settings go into one call.

Shape letters: N members.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distill.config import OptimizerConfig


@dataclass
class _Stack:
    """A stacked parameter and its moments, whole and cut by member."""

    parameter: nn.Parameter

    def __post_init__(self) -> None:
        self.moments = torch.zeros_like(self.parameter), torch.zeros_like(self.parameter)
        self.steps = torch.zeros(())
        self.cut = [whole.unbind() for whole in (self.parameter.detach(), *self.moments)]


class BankAdam:
    """What `DistillModule` does with one student's dense parameters (fused Adam, AdamW with a weight decay; clipping).

    Args:
        parts: stacked parameters [N, ...], of the model and of each channel; each part is clipped by itself.
        settings: of the members, N of them.
    """

    def __init__(self, parts: Sequence[Sequence[nn.Parameter]], settings: Sequence[OptimizerConfig]):
        self.parts = [[_Stack(parameter) for parameter in part] for part in parts]
        self.settings = list(settings)
        like = next(stack.parameter for part in self.parts for stack in part)
        self._limits = torch.tensor([one.clip_norm for one in settings], dtype=like.dtype, device=like.device)
        self._clips = any(one.clip_norm for one in settings)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for stack in self._stacks():
            stack.parameter.grad = None

    @torch.no_grad()
    def clip(self) -> Tensor:
        """Shorten each member's gradient to its `clip_norm`, part by part; one of 0 leaves it as it is.

        Returns:
            float [N], the largest norm of each member's parts, before it is shortened.
        """
        largest = torch.zeros_like(self._limits)
        for part in self.parts:
            gradients = [stack.parameter.grad for stack in part if stack.parameter.grad is not None]
            if not gradients:
                continue
            norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients])
            norm = torch.linalg.vector_norm(norms, dim=0)
            largest = torch.maximum(largest, norm)
            if self._clips:
                factor = torch.where(self._limits > 0, (self._limits / (norm + 1e-6)).clamp_max(1), 1)
                for gradient in gradients:
                    gradient.mul_(factor.view(-1, *[1] * (gradient.dim() - 1)))
        return largest

    @torch.no_grad()
    def step(self, members: Sequence[int]) -> None:
        """Update some members; the others' parameters and moments stay as they are.

        Args:
            members: who.
        """
        stacks = [stack for stack in self._stacks() if stack.parameter.grad is not None]
        cut = [(*stack.cut, stack.parameter.grad.unbind()) for stack in stacks]  # type: ignore[union-attr]
        for stack in stacks:
            stack.steps += 1
        alike: dict[tuple[float, float], list[int]] = defaultdict(list)
        for member in members:
            alike[self.settings[member].learning_rate, self.settings[member].weight_decay].append(member)
        for settings, chosen in alike.items():
            parameters, first, second, gradients = (
                [pieces[member] for pieces in of_stacks for member in chosen]
                for of_stacks in zip(*cut, strict=True)
            )
            steps = [stack.steps for stack in stacks for _ in chosen]
            _update(parameters, gradients, first, second, steps, *settings)

    def state(self) -> list[Tensor]:
        """Moments and number of steps of every stacked parameter, not copied."""
        return [tensor for stack in self._stacks() for tensor in (*stack.moments, stack.steps)]

    @torch.no_grad()
    def load(self, state: Sequence[Tensor]) -> None:
        """Take over what `state` gave, of a bank of the same shape."""
        for own, tensor in zip(self.state(), state, strict=True):
            own.copy_(tensor)

    def _stacks(self) -> list[_Stack]:
        return [stack for part in self.parts for stack in part]


def _update(
    parameters: list[Tensor],
    gradients: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    steps: list[Tensor],
    learning_rate: float,
    weight_decay: float,
) -> None:
    """What `torch.optim.Adam(fused=True)` calls, with its defaults."""
    fused = torch._fused_adamw_ if weight_decay else torch._fused_adam_
    fused(
        parameters,
        gradients,
        first,
        second,
        [],
        steps,
        lr=learning_rate,
        beta1=0.9,
        beta2=0.999,
        weight_decay=weight_decay,
        eps=1e-8,
        amsgrad=False,
        maximize=False,
    )
