"""Batches of random content in the form of real ones, for measurements and for tests of models.

Shape letters: B examples, F sparse features, N dense features, T history events, K tasks, M width of a modality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from distill.batch import Batch, ContentVectors, Events, TeacherSignal
from distill.schema import Content, DayInfo, FeatureSchema, SparseFeature, Task

ITEM = "item_id"


def make_schema(
    sizes: Sequence[int],
    dense: int = 0,
    tasks: Sequence[str] = ("click",),
    domains: int = 3,
    content: Mapping[str, int] | None = None,
) -> FeatureSchema:
    """A schema whose first sparse feature is the item.

    Args:
        sizes: rows of each sparse feature's table.
        dense: number of dense features N.
        tasks: names of the tasks.
        domains: number of surfaces.
        content: width M by modality; None for no content vectors.
    """
    names = [ITEM, *(f"feature_{place}" for place in range(1, len(sizes)))]
    surfaces = tuple(f"surface_{place}" for place in range(domains))
    return FeatureSchema(
        name="synthetic",
        domains=surfaces,
        verticals=surfaces,
        days=(DayInfo("2026-01-01", 86_400_000),),
        tasks={task: Task(task) for task in tasks},
        sparse={name: SparseFeature(name, size) for name, size in zip(names, sizes, strict=True)},
        dense=tuple(f"dense_{place}" for place in range(dense)),
        item_feature=ITEM,
        content={name: Content(name, width) for name, width in (content or {}).items()},
    )


def make_batch(
    schema: FeatureSchema, lengths: Sequence[int] | Tensor, seed: int, teacher: bool = True
) -> Batch:
    """A batch of all features and modalities of the schema, each example with one id a feature.

    Args:
        schema: the schema.
        lengths: events of each example; their number is B.
        seed: of the content.
        teacher: carry a teacher's signal on about three rows of four.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.as_tensor(lengths)
    examples, tasks = len(lengths), len(schema.tasks)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    timestamp = 10_000 + integers(10_000, examples)
    logits, mask = torch.randn(examples, tasks, generator=generator), integers(4, examples) > 0
    signal = TeacherSignal(logits, mask, mask.float())
    batch = Batch(
        day=1,
        example_id=torch.arange(examples),
        user_id=integers(100, examples),
        timestamp=timestamp,
        domain=integers(len(schema.domains), examples),
        sparse=KeyedJaggedTensor.from_lengths_sync(
            keys=list(schema.sparse),
            values=torch.cat(
                [_popular(feature.size, examples, generator) for feature in schema.sparse.values()]
            ),
            lengths=torch.ones(examples * len(schema.sparse), dtype=torch.int64),
        ),
        dense=torch.randn(examples, len(schema.dense), generator=generator),
        labels=integers(2, examples, tasks).float(),
        label_mask=(known := integers(5, examples, tasks) > 0),
        matured=known,
        history=_make_history(schema, lengths, generator),
        teacher=signal if teacher else None,
    )
    return replace(batch, content=_make_content(schema, batch, generator))


def _make_content(
    schema: FeatureSchema, batch: Batch, generator: torch.Generator
) -> dict[str, ContentVectors]:
    """Of one random vector per item; about one item of four has none."""
    assert batch.history is not None
    items, made = schema.sparse[schema.item_feature].size, {}
    of_batch, of_events = batch.sparse[schema.item_feature].values(), batch.history.item
    for name, content in schema.content.items():
        known = torch.randint(4, (items,), generator=generator) > 0
        vectors = torch.randn(items, content.width, generator=generator) * known[:, None]
        made[name] = ContentVectors(vectors[of_batch], known[of_batch], vectors[of_events], known[of_events])
    return made


def _make_history(schema: FeatureSchema, lengths: Tensor, generator: torch.Generator) -> Events:
    offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64)
    offsets[1:] = lengths.cumsum(0)
    events = int(offsets[-1])
    labels = torch.randint(-1, 2, (events, len(schema.tasks)), generator=generator, dtype=torch.int8)
    return Events(
        offsets=offsets,
        item=_popular(schema.sparse[schema.item_feature].size, events, generator),
        time=torch.arange(events),
        domain=torch.randint(len(schema.domains), (events,), generator=generator),
        labels=labels,
    )


def _popular(size: int, count: int, generator: torch.Generator) -> Tensor:
    """Ids of which few are frequent, as items and users are: the rank is log-uniform."""
    ranks = torch.exp(torch.rand(count, generator=generator) * torch.log(torch.tensor(float(size))))
    return ranks.long().clamp_max(size) - 1
