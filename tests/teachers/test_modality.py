"""The modality tower against a plain restatement in float64, and what must not matter to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.benchmarks.synthetic import make_batch, make_schema
from teachers.modality import ModalityTower

DIM = 4
WIDTHS = {"image": 3, "text": 1}
KNOWN = torch.tensor([True, False, True, True, False])


def tower(seed: int = 0, **widths: int) -> ModalityTower:
    torch.manual_seed(seed)
    return ModalityTower(widths or WIDTHS, DIM).double()


def vectors(width: int = 3) -> Tensor:
    return torch.randn(5, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def restated(model: ModalityTower, place: int, rows: Tensor, known: Tensor) -> Tensor:
    """Row by row, from the state alone."""
    state = model.state_dict()
    w1, b1 = state[f"towers.{place}.0.weight"], state[f"towers.{place}.0.bias"]
    w2, b2 = state[f"towers.{place}.2.weight"], state[f"towers.{place}.2.bias"]
    tokens = []
    for row, is_known in zip(rows, known.tolist(), strict=True):
        hidden = torch.stack([(w * row).sum() for w in w1]) + b1
        tokens.append(w2 @ hidden.clamp(min=0) + b2 if is_known else state["missing"][place])
    return torch.stack(tokens)


@pytest.mark.parametrize(("name", "place"), [("image", 0), ("text", 1)])
def test_equation(name: str, place: int) -> None:
    model, rows = tower(), vectors(WIDTHS[name])
    torch.testing.assert_close(model(rows, KNOWN, name), restated(model, place, rows, KNOWN))


def test_gradients() -> None:
    model = tower()
    parameters = dict(model.named_parameters())
    names = [name for name in parameters if not name.startswith("towers.1")]

    def call(rows: Tensor, *values: Tensor) -> Any:
        state = dict(zip(names, values, strict=True))
        return torch.func.functional_call(model, state, (rows, KNOWN, "image"))

    inputs = [parameters[name].detach().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(call, (vectors().requires_grad_(), *inputs))


@pytest.mark.parametrize("garbage", [0.0, -1e30, 1e300])
def test_what_stands_under_the_mask_never_matters(garbage: float) -> None:
    model, rows = tower(), vectors()
    spoilt = rows.masked_fill(~KNOWN[:, None], garbage)
    found = []
    for inputs in (rows, spoilt):
        model.zero_grad()
        tokens = model(inputs, KNOWN, "image")
        tokens.square().sum().backward()
        found.append([tokens.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for plain, other in zip(*found, strict=True):
        assert torch.equal(plain, other)


def test_a_missing_vector_learns_and_moves_nothing_else() -> None:
    model = tower()
    model(vectors(), torch.zeros(5, dtype=torch.bool), "image").sum().backward()
    assert model.missing.grad is not None
    assert model.missing.grad.tolist() == [[5.0] * DIM, [0.0] * DIM]
    assert not any(p.grad.any() for p in model.towers.parameters() if p.grad is not None)


def test_no_rows_no_tokens() -> None:
    assert tower()(vectors()[:0], KNOWN[:0], "image").shape == (0, DIM)


def test_the_order_of_rows_is_theirs() -> None:
    model, rows, order = tower(), vectors(), torch.tensor([4, 2, 0, 1, 3])
    tokens = model(rows, KNOWN, "image")
    torch.testing.assert_close(model(rows[order], KNOWN[order], "image"), tokens[order])


def test_items_and_events_share_the_tower() -> None:
    schema = make_schema([20], content={"text": 1, "image": 3})
    batch = make_batch(schema, [2, 0, 1], seed=0)
    model = tower(image=3, text=1).float()
    tokens = model.item_tokens(batch.content)
    assert tokens.shape == (3, 2, DIM)
    for place, name in enumerate(("image", "text")):
        part = batch.content[name]
        torch.testing.assert_close(tokens[:, place], model(part.item, part.item_known, name))
        assert part.events is not None and part.events_known is not None
        assert model(part.events, part.events_known, name).shape == (3, DIM)


@pytest.mark.parametrize("name", ["train", "half-size", "1+1", "forward"])
def test_a_modality_may_have_any_name(name: str) -> None:
    model = tower(**{name: 3})
    assert model(vectors(), KNOWN, name).shape == (5, DIM)


def test_same_seed_same_tower() -> None:
    ours, theirs = tower(seed=3).state_dict(), tower(seed=3).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
