"""Before a bank's first step: what would be something else in a bank is found out, and refused.

Rows of tables are almost 0 at their start, and so is what they make of one another. The probes scale them up.

Shape letters: N members, B examples, F fields, D width of the tables, T history events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.protocols import Output
from kernels.embedding import Embedded

RTOL = 1e-5
"""Of an output's largest value."""
Say = Callable[[Embedded, Batch], Output]


def factor_of(embedded: Embedded, rows: Tensor) -> float:
    """What makes the root mean square of looked-up rows 1; 1 where all of them are 0.

    Args:
        embedded: features [R, F, D].
        rows: bool [R], those that count.
    """
    size = embedded.features[rows].square().mean().sqrt().item()
    return 1 / size if size else 1.0


def scaled(embedded: Embedded, factor: float) -> Embedded:
    """Looked-up rows times a factor."""
    events = None if embedded.events is None else embedded.events * factor
    return Embedded(embedded.features * factor, events)


@contextmanager
def scaled_tables(tables: nn.Module, factor: float) -> Iterator[None]:
    """Inside, what the tables look up comes times a factor."""

    def scale(module: nn.Module, ids: Any, embedded: Embedded) -> Embedded:
        return scaled(embedded, factor)

    hook = tables.register_forward_hook(scale)
    try:
        yield
    finally:
        hook.remove()


def rows_are_alone(say: Say, embedded: Embedded, batch: Batch, rows: Tensor) -> bool:
    """Whether no row's logits and taps move when every second row gets other fields, events and dense features.

    Args:
        say: the architecture on folded rows.
        embedded: features [N * B, F, D], events [N * T, D] or None.
        batch: folded.
        rows: bool [N * B], those that count.
    """
    changed = torch.arange(len(batch)) % 2 == 1
    dense = torch.where(changed.unsqueeze(1), _other(batch.dense), batch.dense)
    here = say(embedded, batch)
    there = say(_changed(embedded, batch, changed), replace(batch, dense=dense))
    return agree(taken(here, rows & ~changed), taken(there, rows & ~changed))


def taken(output: Output, rows: Tensor | slice) -> Output:
    """Some rows of an output."""
    return Output(output.logits[rows], {name: tap[rows] for name, tap in output.taps.items()})


def agree(expected: Output, found: Output) -> bool:
    """Whether two outputs are the same to rounding, wherever the first is finite."""
    pairs = [(expected.logits, found.logits)]
    pairs += [(tap, found.taps[name]) for name, tap in expected.taps.items()]
    return all(_close(*pair) for pair in pairs)


def _close(expected: Tensor, found: Tensor) -> bool:
    finite = expected.isfinite()
    expected, found = expected[finite], found[finite]
    return not len(expected) or bool(((found - expected).abs() <= RTOL * expected.abs().max()).all())


def _changed(embedded: Embedded, batch: Batch, rows: Tensor) -> Embedded:
    features = torch.where(rows.view(-1, 1, 1), _other(embedded.features), embedded.features)
    if embedded.events is None:
        return Embedded(features, None)
    assert batch.history is not None
    of_rows = rows.repeat_interleave(batch.history.offsets.diff()).unsqueeze(1)
    return Embedded(features, torch.where(of_rows, _other(embedded.events), embedded.events))


def _other(values: Tensor) -> Tensor:
    return 1 - 2 * values
