"""Encoders of a jagged past against their equations, and what no encoder may do: look across examples, or grow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from adapters.encoders import AgeEncoding, PastEncoder, leading
from distill.batch import Past
from distill.seeding import seeded
from tests.adapters.past_data import DAY, MINUTE, age_vector, array, encoded, make_past, scramble

ENCODERS = ["mean", "sum", "din", "target_attention"]
WIDTH, DIM, LENGTH = 3, 4, 6
LENGTHS = [3, 0, 1, 6, 2]
NOW = 100 * DAY


def make(encoder: str, heads: int = 2, scrambled: bool = True) -> PastEncoder:
    with seeded(0, "channel.test"):
        module = PastEncoder(WIDTH, DIM, encoder, LENGTH, heads, value_scale=1.0).double()
    if scrambled:
        scramble(module)
    return module


def inputs(lengths: list[int]) -> tuple[Past, Tensor, Tensor]:
    """Past, timestamps and items, in double precision."""
    timestamp = NOW + 1000 * torch.arange(len(lengths))
    past = make_past(timestamp, lengths, WIDTH)
    item = torch.randn(len(lengths), DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return replace(past, values=past.values.double()), timestamp, item


@pytest.mark.parametrize("lengths", [LENGTHS, [1], [0, 0], [2, 0]])
@pytest.mark.parametrize(("encoder", "heads"), [*((name, 2) for name in ENCODERS), ("target_attention", 1)])
def test_equations(encoder: str, heads: int, lengths: list[int]) -> None:
    module, (past, timestamp, item) = make(encoder, heads), inputs(lengths)
    expected = encoded(module, encoder, past, timestamp, array(item), LENGTH)
    np.testing.assert_allclose(array(module(past, timestamp, item)), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("lengths", [LENGTHS, [0, 0]])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_gradients(encoder: str, lengths: list[int]) -> None:
    module, (past, timestamp, item) = make(encoder), inputs(lengths)
    names = [name for name, _ in module.named_parameters()]

    def field(values: Tensor, item: Tensor, *parameters: Tensor) -> Tensor:
        arguments = replace(past, values=values), timestamp, item
        return functional_call(module, dict(zip(names, parameters, strict=True)), arguments)

    parameters = [parameter.detach().requires_grad_() for parameter in module.parameters()]
    values, item = past.values.requires_grad_(), item.requires_grad_()
    assert torch.autograd.gradcheck(field, (values, item, *parameters))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_examples_may_stand_in_any_order(encoder: str) -> None:
    module, (past, timestamp, item) = make(encoder), inputs(LENGTHS)
    order = [3, 1, 4, 0, 2]
    parts = torch.arange(sum(LENGTHS)).split(LENGTHS)
    places = torch.cat([parts[b] for b in order])
    offsets = torch.tensor([0, *(LENGTHS[b] for b in order)]).cumsum(0)
    moved = Past(offsets, past.values[places], past.time[places])
    expected = module(past, timestamp, item)[order]
    torch.testing.assert_close(module(moved, timestamp[order], item[order]), expected)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_vectors_of_an_example_may_stand_in_any_order(encoder: str) -> None:
    module, (past, timestamp, item) = make(encoder), inputs([4])
    order = [2, 0, 3, 1]
    moved = Past(past.offsets, past.values[order], past.time[order])
    torch.testing.assert_close(module(moved, timestamp, item), module(past, timestamp, item))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_nothing_leaks_from_one_example_to_another(encoder: str) -> None:
    module, (past, timestamp, item) = make(encoder), inputs(LENGTHS)
    before = module(past, timestamp, item)
    mine = torch.arange(3, 4)  # the only vector of example 2
    values, time = past.values.clone(), past.time.clone()
    values[mine] += 3
    time[mine] -= 5 * DAY
    item = item.clone()
    item[2] -= 2
    after = module(Past(past.offsets, values, time), timestamp, item)
    assert [b for b in range(5) if not torch.equal(before[b], after[b])] == [2]


@pytest.mark.parametrize("encoder", ["din", "target_attention"])
def test_attention_looks_at_the_item(encoder: str) -> None:
    module, (past, timestamp, item) = make(encoder), inputs([4])
    assert not torch.allclose(module(past, timestamp, item), module(past, timestamp, -item))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_age_counts(encoder: str) -> None:
    module, (past, timestamp, item) = make(encoder), inputs([4])
    assert not torch.allclose(module(past, timestamp, item), module(past, timestamp + 3 * DAY, item))


def test_the_sum_tells_how_many_there_are() -> None:
    fields = []
    for count in (1, 4):
        past = Past(
            torch.tensor([0, count]), torch.ones(count, WIDTH).double(), torch.full((count,), NOW - DAY)
        )
        item = torch.zeros(1, DIM).double()
        fields.append([make(encoder)(past, torch.tensor([NOW]), item) for encoder in ("sum", "mean")])
    torch.testing.assert_close(fields[1][0], 4 * fields[0][0])
    torch.testing.assert_close(fields[1][1], fields[0][1])


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_field_starts_as_small_as_the_tables_rows(encoder: str, scale: float) -> None:
    with seeded(0, "channel.test"):
        module = PastEncoder(32, 16, encoder, 50, 2, value_scale=scale)
    timestamp = torch.full((200,), NOW)
    past = make_past(timestamp, [0, *[25] * 199], 32)
    field = module(replace(past, values=past.values * scale), timestamp, 0.01 * torch.randn(200, 16))
    assert 0.0002 < field[1:].std().item() < 0.02
    assert 0.004 < field[0].std().item() < 0.02


@pytest.mark.parametrize("encoder", ENCODERS)
def test_gradient_at_the_start_reaches_everything(encoder: str) -> None:
    module, (past, timestamp, item) = make(encoder, scrambled=False), inputs(LENGTHS)
    weights = torch.randn(5, DIM, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (module(past, timestamp, item) * weights).sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("age", "nearest"), [(1, 0), (MINUTE, 0), (30 * DAY, 7), (90 * DAY, 7), (6 * 3_600_000, 4)]
)
def test_ages_by_hand(age: int, nearest: int) -> None:
    encoding = AgeEncoding(8).double()
    with torch.no_grad():
        encoding.vectors.copy_(torch.eye(8))
    weights = array(encoding(torch.tensor([age])))[0]
    np.testing.assert_allclose(weights, age_vector(np.eye(8), age), atol=1e-12)
    assert weights.argmax() == nearest and weights.sum() == pytest.approx(1)


def test_encoder_knows_no_ages_at_first() -> None:
    assert not make("mean", scrambled=False).age.vectors.any()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_bfloat16_is_near(encoder: str) -> None:
    module: Any = make(encoder).float()
    past, timestamp, item = inputs(LENGTHS)
    past, item = replace(past, values=past.values.float()), item.float().requires_grad_()
    exact = module(past, timestamp, item)
    with torch.autocast("cpu", torch.bfloat16):
        near = module(past, timestamp, item)
    near.float().sum().backward()
    torch.testing.assert_close(near.float(), exact, rtol=0.05, atol=0.05 * exact.abs().max().item())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_leading_numbers() -> None:
    values = torch.arange(6.0).view(2, 3)
    assert leading(values, 2).tolist() == [[0, 1], [3, 4]]
    with pytest.raises(AssertionError, match="got representations of width 3, wanted 4"):
        leading(values, 4)
