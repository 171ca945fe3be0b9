"""What one writes without any library: `nn.Embedding` per field, padded history, one Adam, slices of tensors.

Shape letters: B examples, L longest history, D embedding dim, W width of the network's input.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.benchmarks.peers.harness import Clock, Task, main
from experiments.benchmarks.peers.work import ATTENTION, BATCH, CROSS_LAYERS, DIM, ITEM, MLP, Rows


class Model(nn.Module):
    """DeepFM, DCN-v2 or DIN over the sum of what they share.

    Args:
        model: which.
        sizes: ids of each field.
    """

    def __init__(self, model: str, sizes: dict[str, int]):
        super().__init__()
        self.model, self.fields = model, list(sizes)
        width = DIM * (len(sizes) + (model == "din"))
        self.tables = nn.ModuleList(nn.Embedding(size, DIM) for size in sizes.values())
        self.deep = nn.Sequential(nn.Linear(width, MLP[0]), nn.ReLU(), nn.Linear(*MLP), nn.ReLU())
        if model == "deepfm":
            self.first_order = nn.ModuleList(nn.Embedding(size, 1) for size in sizes.values())
        if model == "dcn_v2":
            self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(CROSS_LAYERS))
        if model == "din":
            self.unit = nn.Sequential(
                nn.Linear(4 * DIM, ATTENTION[0]), nn.PReLU(), nn.Linear(ATTENTION[0], 1)
            )
        self.head = nn.Linear(MLP[1] + (width if model == "dcn_v2" else 0), 1)
        for table in self.modules():
            if isinstance(table, nn.Embedding):
                nn.init.normal_(table.weight, std=0.01)

    def forward(self, ids: Tensor, history: Tensor) -> Tensor:
        """Logits [B] of ids [B, F] and padded histories [B, L]."""
        parts = [table(ids[:, place]) for place, table in enumerate(self.tables)]
        if self.model == "din":
            parts.append(self.interest(parts[self.fields.index(ITEM)], history))
        x = torch.cat(parts, dim=1)
        deep = self.deep(x)
        if self.model == "dcn_v2":
            crossed = x
            for layer in self.cross:
                crossed = x * layer(crossed) + crossed
            deep = torch.cat([deep, crossed], dim=1)
        logits = self.head(deep)
        if self.model == "deepfm":
            fields = torch.stack(parts, dim=1)
            pairs = 0.5 * (fields.sum(1).square() - fields.square().sum(1)).sum(1, keepdim=True)
            logits = logits + pairs + sum(t(ids[:, place]) for place, t in enumerate(self.first_order))
        return logits.squeeze(1)

    def interest(self, target: Tensor, history: Tensor) -> Tensor:
        """DIN's weighted sum [B, D] of the histories' items."""
        events = self.tables[self.fields.index(ITEM)](history)
        beside = target.unsqueeze(1).expand_as(events)
        weights = self.unit(torch.cat([events, beside, events - beside, events * beside], dim=2))
        return (weights * events * (history > 0).unsqueeze(2)).sum(1)


def batches(rows: Rows) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Slices of whole tensors: ids [B, F], history [B, L], labels [B]."""
    ids = torch.from_numpy(np.stack(list(rows.fields.values()), axis=1))
    whole = (ids, torch.from_numpy(rows.history), torch.from_numpy(rows.click))
    for start in range(0, len(rows), BATCH):
        ids, history, click = (part[start : start + BATCH] for part in whole)
        yield ids, history, click


def train(task: Task, clock: Clock) -> np.ndarray:
    """One pass; the evaluation rows are scored after it."""
    model = Model(task.model, task.description.sizes)
    adam = torch.optim.Adam(model.parameters(), lr=task.learning_rate)
    for ids, history, click in clock.loading(batches(task.train)):
        adam.zero_grad()
        functional.binary_cross_entropy_with_logits(model(ids, history), click).backward()
        adam.step()
    clock.stop()
    with torch.no_grad():
        return np.concatenate([model(ids, history).numpy() for ids, history, _ in batches(task.evaluation)])


if __name__ == "__main__":
    main("torch", train)
