"""Forms of DeepFM's first-order term, on simulated clicks whose truth has one.

    python -m experiments.benchmarks.first_order [--steps 500] [--rates 0.03 0.05 0.07]

Prints the progressive log-loss (each batch scored before it is trained on) of the last 30 % of the steps:
`none` no first order; `linear` w . e with one w a field (FwFM, arXiv 1806.03514); `table` a free weight in a
table of its own, one more look-up a step; `columns 0.5`, `columns 1` a free weight in an extra column of the
row, times that number.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchrec import KeyedJaggedTensor

from kernels.embedding import EmbeddingTables
from students.blocks import MLP, SecondOrder

BATCH, DIM = 512, 16
SIZES = {f"feature_{size}": size for size in (5000, 20000, 300, 50, 1000, 10, 200, 24)}
FORMS = ("none", "linear", "table", "columns 0.5", "columns 1")


@dataclass(frozen=True)
class World:
    """The truth: a first-order effect of every id and products of hidden vectors."""

    effects: dict[str, Tensor]
    vectors: dict[str, Tensor]

    @classmethod
    def make(cls, seed: int) -> World:
        """Draw a world."""
        generator = torch.Generator().manual_seed(seed)
        effects = {name: 0.4 * torch.randn(size, generator=generator) for name, size in SIZES.items()}
        vectors = {name: 0.35 * torch.randn(size, 4, generator=generator) for name, size in SIZES.items()}
        return cls(effects, vectors)

    def batch(self, seed: int) -> tuple[KeyedJaggedTensor, Tensor]:
        """Ids and clicks [B, 1]; an id's rank is log-uniform."""
        generator = torch.Generator().manual_seed(seed)
        draws = {name: torch.rand(BATCH, generator=generator) for name in SIZES}
        ids = {
            name: (draw * torch.tensor(SIZES[name]).log()).exp().long() - 1 for name, draw in draws.items()
        }
        vectors = torch.stack([self.vectors[name][chosen] for name, chosen in ids.items()], dim=1)
        first = torch.stack([self.effects[name][chosen] for name, chosen in ids.items()]).sum(0).unsqueeze(1)
        logits = first - 1.5 + 0.5 * SecondOrder.apply(vectors)
        clicks = (torch.rand(BATCH, 1, generator=generator) < logits.sigmoid()).float()
        lengths = torch.ones(BATCH * len(SIZES), dtype=torch.int64)
        return (
            KeyedJaggedTensor.from_lengths_sync(list(SIZES), torch.cat(list(ids.values())), lengths),
            clicks,
        )


class Model(nn.Module):
    """DeepFM with one of the forms."""

    def __init__(self, form: str, rate: float):
        super().__init__()
        name, _, scale = form.partition(" ")
        self.form, self.scale = name, float(scale or 1)
        width = DIM + 4 if name == "columns" else DIM
        self.tables = EmbeddingTables(SIZES, width, seed=0, learning_rate=rate)
        self.weights = EmbeddingTables(SIZES, 4, seed=0, learning_rate=rate) if name == "table" else None
        self.linear = nn.Linear(len(SIZES) * DIM, 1, bias=False)
        self.deep = nn.Sequential(MLP(len(SIZES) * DIM, [128, 64]), nn.Linear(64, 1))

    def forward(self, ids: KeyedJaggedTensor) -> Tensor:
        rows = self.tables(ids).features
        fields, extra = rows[:, :, :DIM], rows[:, :, DIM:]
        flat = fields.flatten(1)
        logits = self.deep(flat) + SecondOrder.apply(fields.contiguous())
        if self.form == "linear":
            return logits + self.linear(flat)
        if self.form == "columns":
            return logits + self.scale * extra[:, :, :1].sum(1)
        return logits if self.weights is None else logits + self.weights(ids).features[:, :, :1].sum(1)


def measure(form: str, rate: float, steps: int) -> float:
    """Progressive log-loss of the last 30 % of the steps."""
    world = World.make(seed=7)
    torch.manual_seed(0)
    model = Model(form, rate)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    losses = []
    for step in range(steps):
        ids, clicks = world.batch(step)
        loss = functional.binary_cross_entropy_with_logits(model(ids), clicks)
        losses.append(loss.item())
        adam.zero_grad()
        loss.backward()
        adam.step()
    last = losses[int(0.7 * steps) :]
    return sum(last) / len(last)


def main() -> None:
    parser = argparse.ArgumentParser(description="Forms of DeepFM's first-order term, on simulated clicks.")
    parser.add_argument("--steps", type=int, default=500, help=f"batches of {BATCH} clicks")
    parser.add_argument(
        "--rates", type=float, nargs="*", default=[0.03, 0.05, 0.07], help="learning rates of the tables"
    )
    settings = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'form':12}", *(f"{rate:>8}" for rate in settings.rates))
    for form in FORMS:
        losses = [measure(form, rate, settings.steps) for rate in settings.rates]
        print(f"{form:12}", *(f"{loss:8.4f}" for loss in losses), flush=True)


if __name__ == "__main__":
    main()
