"""The autoencoder of representations: what the teacher's taps say, as one short vector (LoopFM, arXiv 2605.29280).

    e = [tap; ...; tap]      z = tanh(f_enc(e))      e_hat = f_dec(z)      L = mean (e - e_hat)^2

with a stop-gradient into the teacher. Matryoshka (optional): L is averaged over prefixes of z, the rest of z at 0, so
that every prefix stands alone.

Shape letters: B examples, C columns of all chosen taps side by side, T taps, D width of z, P prefixes and D itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from adapters.layers import relu_layers
from distill.batch import Batch
from distill.config import RepresentationConfig
from distill.distributed import whole_batch
from distill.errors import NonFiniteError, UserError, nearest
from distill.protocols import Architecture, Channel, Output
from distill.seeding import seeded

_NEWEST = 0.05
"""Of a new batch in the running statistics, once twenty have been seen: a young teacher's taps grow fast."""

_SMALLEST_SCALE = 1e-6


class Autoencoder(Channel):
    """Trains on the taps of every step by an Adam of its own; the teacher feels nothing.

    It adds nothing to the teacher's loss and draws no number from the global generator, so that the teacher's
    parameters are, bit for bit, those of a training without it.

    Args:
        config: taps, widths, learning rate.
        seed: of the initial values.
    """

    needs = frozenset()
    shares_batches = True
    prefix_mask: Tensor

    def __init__(self, config: RepresentationConfig, seed: int):
        super().__init__()
        self.config = config
        self.seed = seed
        self.prefixes = (*config.prefixes, config.dim)
        self._logs: dict[str, Tensor] = {}

    def attach(self, student: Architecture) -> None:
        """Build encoder and decoder on the teacher's taps.

        Args:
            student: the teacher, here.

        Raises:
            UserError: the teacher has no such tap.
        """
        config, allowed = self.config, student.tap_widths
        for tap in config.taps:
            if tap not in allowed:
                raise UserError(
                    f"teacher.representation.taps: got '{tap}', allowed: {', '.join(allowed)}. "
                    f"{nearest(tap, allowed)}".rstrip()
                )
        widths = [allowed[tap] for tap in config.taps]
        mask = torch.arange(config.dim) < torch.tensor(self.prefixes).unsqueeze(1)
        self.register_buffer("prefix_mask", mask.float(), persistent=False)
        self.standardize = Standardize(widths)
        with seeded(self.seed, "channel.representation"):
            self.encoder = nn.Sequential(*relu_layers([sum(widths), *config.hidden, config.dim]), nn.Tanh())
            self.decoder = nn.Sequential(*relu_layers([config.dim, *reversed(config.hidden), sum(widths)]))
        self.optimizer = torch.optim.Adam(self.parameters(), lr=config.learning_rate)

    def dense_parameters(self) -> Iterable[nn.Parameter]:
        """None: `step` updates them all."""
        return ()

    def training_state(self) -> dict[str, Any]:
        """Of its own Adam."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])

    def encode(self, output: Output) -> Tensor:
        """The representation of a batch.

        Args:
            output: the teacher's.

        Returns:
            z, float32 [B, D], within -1 and 1; `z[:, :m]` stands alone for every m of `prefixes`.
        """
        return self.encoder(self.standardize(self._taps(output)))

    def step(self, output: Output, batch: Batch) -> None:
        """One step on a batch's taps, which are scored before they are learnt from.

        Raises:
            NonFiniteError: the reconstruction loss is NaN or infinite; nothing was updated but the statistics.
        """
        taps = whole_batch(self._taps(output))  # small enough for every process to make the same step of all
        self.standardize.update(taps)
        target = self.standardize(taps)
        losses = self._losses(target)
        loss = losses.mean()
        if not torch.isfinite(loss):
            raise NonFiniteError(
                f"teacher.representation: reconstruction loss is {loss.item()} on day {batch.day} (examples "
                f"{batch.example_id[0].item()} and following). Lower the learning rates."
            )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self._log(losses.detach(), target)

    def loss(self, output: Output, batch: Batch, student: Architecture) -> tuple[Tensor, dict[str, Tensor]]:
        """Nothing for the teacher to learn; what the step before saw."""
        return output.logits.new_zeros(()), self._logs

    def _taps(self, output: Output) -> Tensor:
        """The chosen taps side by side, out of reach of any gradient; float32 [B, C]."""
        return torch.cat([output.taps[tap].detach() for tap in self.config.taps], dim=1)

    def _losses(self, target: Tensor) -> Tensor:
        """Mean squared error of what every prefix alone gives back, [P]."""
        z = self.encoder(target)
        restored = self.decoder(z * self.prefix_mask.unsqueeze(1))  # [P, B, C]
        return (restored - target).square().mean((1, 2))

    def _log(self, losses: Tensor, target: Tensor) -> None:
        """Loss, and the share of the taps' variance that the whole and every prefix explain."""
        explained = 1 - losses / target.square().mean().clamp_min(torch.finfo().tiny)
        self._logs = {"loss": losses.mean(), "explained": explained[-1]}
        for width, share in zip(self.config.prefixes, explained, strict=False):
            self._logs[f"explained_{width}"] = share


class Standardize(nn.Module):
    """Centres every column, and brings taps of any width and size to the same weight (ours).

    One scale a tap, not one a column: what hardly varies inside a tap stays small, instead of noise blown up. Taps
    share the columns' squared length C evenly, so that a loss of 1 is that of knowing the means alone.

    Args:
        widths: columns of each tap.
    """

    mean: Tensor
    variance: Tensor
    steps: Tensor
    tap_of_column: Tensor
    spread: Tensor

    def __init__(self, widths: list[int]):
        super().__init__()
        columns = torch.tensor(widths)
        spread = (columns * len(widths) / columns.sum()).sqrt()
        self.widths = widths
        self.register_buffer("mean", torch.zeros(sum(widths)))
        self.register_buffer("variance", torch.ones(len(widths)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("spread", spread, persistent=False)
        places = torch.arange(len(widths)).repeat_interleave(columns)
        self.register_buffer("tap_of_column", places, persistent=False)

    def forward(self, taps: Tensor) -> Tensor:
        """[B, C] as they come to [B, C] of mean 0 and mean square 1 by the statistics so far."""
        scale = self.variance.sqrt().clamp_min(_SMALLEST_SCALE) * self.spread
        return (taps - self.mean) / scale[self.tap_of_column]

    @torch.no_grad()
    def update(self, taps: Tensor) -> None:
        """Take a batch [B, C] into the statistics: the mean of the first twenty batches, a moving one after."""
        self.steps += 1
        weight = (1 / self.steps).clamp_min(_NEWEST)
        moved = taps.mean(0) - self.mean
        variance = taps.var(0, correction=0) + (1 - weight) * moved.square()  # of old and new rows together
        self.mean += weight * moved
        of_taps = torch.stack([part.mean() for part in variance.split(self.widths)])
        self.variance += weight * (of_taps - self.variance)
