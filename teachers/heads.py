"""Heads: a logit for every task, shared by the surfaces, with what is a surface's own.

A conditional task is trained over all rows and not over those rows alone on which it could happen (entire space: ESMM,
arXiv 1804.07931): its head gives the logit of, say, a conversion given a click, and the model's logit is that of the
product of both probabilities.

Shape letters: B examples, D surfaces, k tasks, W width of the input.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from distill.errors import UserError, nearest
from distill.losses import LOWEST_RATE


class TaskHeads(nn.Module):
    """logit[t] = (shared[t] + own[surface, t]) . hidden + bias[surface, t]; products where a task is conditional.

    `own` and `bias` start at zero. Those of a surface absent from a batch get a gradient of exactly zero. Logits are
    computed in the parameters' precision, under autocast too: a loss is not computed from 8 bits.

    Args:
        width: W.
        domains: D.
        tasks: names of the k tasks, in order.
        per_surface: give every surface a head of its own (`own`) beside the shared one.
        conditional: task to the task without which it cannot happen, such as conversion to click. Chains are
            followed: purchase given cart, cart given click.

    Raises:
        UserError: naming options.conditional: a task that is not among `tasks`, or one that depends on itself.
    """

    def __init__(
        self,
        width: int,
        domains: int,
        tasks: tuple[str, ...],
        per_surface: bool = False,
        conditional: Mapping[str, str] | None = None,
    ):
        super().__init__()
        self.tasks = tuple(tasks)
        self.parents = parents_first(conditional or {}, self.tasks)
        self.shared = nn.Linear(width, len(tasks), bias=False)
        self.surface_bias = nn.Embedding(domains, len(tasks))
        nn.init.zeros_(self.surface_bias.weight)
        self.own: nn.Embedding | None = None
        if per_surface:
            self.own = nn.Embedding(domains, len(tasks) * width)
            nn.init.zeros_(self.own.weight)

    def forward(self, hidden: Tensor, domain: Tensor) -> Tensor:
        """Logits of the tasks.

        Args:
            hidden: float [B, W], or [B, k, W] with an input for each task.
            domain: int64 [B], index of the surface.

        Returns:
            [B, k], of the parameters' type; a conditional task's is the logit of the product.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            logits = self.head_logits(hidden.to(self.shared.weight.dtype), domain)
            return self._products(logits) if self.parents else logits

    def head_logits(self, hidden: Tensor, domain: Tensor) -> Tensor:
        """What the heads themselves say, [B, k]: of a conditional task its logit given the other one."""
        if hidden.dim() == 2:
            logits = self.shared(hidden)
            hidden = hidden.unsqueeze(1)
        else:
            logits = (hidden * self.shared.weight).sum(dim=2)
        if self.own is not None:
            own = self.own(domain).unflatten(1, (len(self.tasks), -1))
            logits = logits + (hidden * own).sum(dim=2)
        return logits + self.surface_bias(domain)

    def set_base_rates(self, rates: Mapping[str, Tensor]) -> None:
        """Start every surface's bias at the logit of its rate; of a conditional task, of its share of the other's.

        Args:
            rates: task to float64 [D], NaN where a surface has no label; it gets the mean of the others. A task
                without any rate starts at 0.
        """
        with torch.no_grad():
            for place, task in enumerate(self.tasks):
                parent = self.parents.get(task)
                rate = rates[task] if parent is None else rates[task] / rates[parent]
                rate = rate.clamp(LOWEST_RATE, 1 - LOWEST_RATE)
                known = rate.isfinite()
                bias = torch.where(known, rate.logit(), rate[known].mean().logit() if known.any() else 0.0)
                self.surface_bias.weight[:, place] = bias.to(self.surface_bias.weight)

    def _products(self, logits: Tensor) -> Tensor:
        joint = dict(zip(self.tasks, logits.unbind(1), strict=True))
        for task, parent in self.parents.items():
            joint[task] = product_logit(joint[parent], joint[task])
        return torch.stack([joint[task] for task in self.tasks], dim=1)


def product_logit(first: Tensor, second: Tensor) -> Tensor:
    """The logit of the product of two probabilities that are given as logits a and b.

    1/p = (1 + exp(-a)) (1 + exp(-b)), so logit p = -log(1/p - 1) = -log(exp(-a) + exp(-b) + exp(-a - b)): a sum of
    positive terms, without the cancellation of log(1 - p); value and gradient are exact at any size of a and b.

    Args:
        first, second: a and b, float of one shape.

    Returns:
        Float of that shape.
    """
    return -torch.logsumexp(torch.stack([-first, -second, -first - second]), dim=0)


def parents_first(conditional: Mapping[str, str], tasks: tuple[str, ...]) -> dict[str, str]:
    """The conditional tasks in an order in which the product of every condition is known before it is used.

    Args:
        conditional: task to the task without which it cannot happen.
        tasks: those that the model predicts.

    Returns:
        The same mapping, ordered.

    Raises:
        UserError: a task that the model does not predict, or one that depends on itself.
    """
    for task, parent in conditional.items():
        for name, place in ((task, ""), (parent, f".{task}")):
            if name not in tasks:
                raise UserError(
                    f"options.conditional{place}: got '{name}', allowed: the model's tasks: {', '.join(tasks)}. "
                    f"{nearest(name, tasks)}".rstrip()
                )
    depth = {task: _depth(task, conditional) for task in conditional}
    return {task: conditional[task] for task in sorted(conditional, key=depth.__getitem__)}


def _depth(task: str, conditional: Mapping[str, str]) -> int:
    """How many conditions lie below a task."""
    path = [task]
    while path[-1] in conditional:
        path.append(conditional[path[-1]])
        if path[-1] in path[:-1]:
            raise UserError(
                f"options.conditional: got {' given '.join(path)}, allowed: no task that depends on itself"
            )
    return len(path) - 1
