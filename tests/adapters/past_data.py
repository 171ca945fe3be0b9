"""A jagged past made by hand, and its encoders written out in numpy, in double precision, example by example."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distill.batch import Batch, Past

Array = NDArray[np.float64]
MINUTE, DAY = 60_000, 86_400_000


def make_past(timestamp: Tensor, lengths: list[int], width: int, seed: int = 0) -> Past:
    """Random vectors within -1 and 1, a minute to 40 days old, oldest first.

    Args:
        timestamp: int64 [B] ms, of the examples.
        lengths: vectors of each example.
        width: of the vectors.
        seed: of the content.
    """
    generator = torch.Generator().manual_seed(seed)
    count = sum(lengths)
    values = torch.rand(count, width, generator=generator) * 2 - 1
    ages = MINUTE * (40 * 1440.0) ** torch.rand(count, generator=generator)
    parts = [part.sort(descending=True).values for part in ages.long().split(lengths)]
    rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return Past(torch.tensor([0, *lengths]).cumsum(0), values, timestamp[rows] - torch.cat(parts))


def with_representation(batch: Batch, width: int, seed: int = 0) -> Batch:
    """The batch with the teacher's representations [B, `width`]; 0 where there is no signal."""
    assert batch.teacher is not None
    generator = torch.Generator().manual_seed(seed)
    z = (torch.rand(len(batch), width, generator=generator) * 2 - 1) * batch.teacher.mask[:, None]
    return batch.with_teacher(replace(batch.teacher, representation=z))


def array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def scramble(module: nn.Module, seed: int = 0) -> None:
    """Large random parameters: no product is 0, and none too small to be seen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.7)


def age_vector(vectors: Array, age: float) -> Array:
    """Between the vectors of two neighbouring ages, of eight even in the logarithm from a minute to 30 days."""
    knots = np.log(MINUTE) + np.arange(8) / 7 * (np.log(30 * DAY) - np.log(MINUTE))
    return np.array([np.interp(np.log(age), knots, column) for column in vectors.T])


def softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def pooled(pooling: Any, encoder: str, e: Array, q: Array, length: int) -> Array:
    """What an encoder makes of one example's vectors [l, D] beside its item [D]."""
    if encoder == "mean":
        return e.mean(0)
    if encoder == "sum":
        return e.sum(0) / np.sqrt(length)
    if encoder == "din":
        total = np.zeros_like(q)
        for one in e:
            hidden = array(pooling.first.weight) @ np.concatenate([one, q, one * q]) + array(
                pooling.first.bias
            )
            weight = array(pooling.last.weight)[0] @ np.maximum(hidden, 0) + array(pooling.last.bias)[0]
            total += weight * one
        return total / np.sqrt(length)
    query = array(pooling.query.weight) @ q + array(pooling.query.bias)
    keys, values = e @ array(pooling.key.weight).T, e @ array(pooling.value.weight).T
    size = len(q) // pooling.heads
    parts = []
    for head in range(pooling.heads):
        part = slice(head * size, (head + 1) * size)
        weights = softmax(keys[:, part] @ query[part] / np.sqrt(size))
        parts.append(weights @ values[:, part])
    return np.concatenate(parts)


def encoded(module: Any, encoder: str, past: Past, timestamp: Tensor, item: Array, length: int) -> Array:
    """The field [B, D] of a `PastEncoder`."""
    offsets, values = past.offsets.tolist(), array(past.values)
    fields = []
    for b, (start, end) in enumerate(zip(offsets, offsets[1:], strict=False)):
        if start == end:
            fields.append(array(module.absent))
            continue
        e = values[start:end] @ array(module.project.weight).T
        ages = [int(timestamp[b]) - int(time) for time in past.time[start:end]]
        e = e + np.stack([age_vector(array(module.age.vectors), age) for age in ages])
        fields.append(array(module.output.weight) @ pooled(module.pooling, encoder, e, item[b], length))
    return np.stack(fields)
