"""What a program says of a user is computed once for each user: the same numbers, fewer operations."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils.flop_counter import FlopCounterMode

from students.export.once import share_users

Forward = Callable[["Toy", Tensor, Tensor], Tensor]


class Toy(nn.Module):
    """Two fields of a user and three of a candidate, 4 wide, under some forward pass."""

    def __init__(self, rest: Forward):
        super().__init__()
        self.rest = rest
        self.layer, self.tower = nn.Linear(20, 5), nn.Linear(8, 6)

    def forward(self, of_user: Tensor, own: Tensor, user: Tensor) -> Tensor:
        return self.rest(self, of_user.index_select(0, user), own)


def joined(toy: Toy, of_user: Tensor, own: Tensor) -> Tensor:
    """Fields in the order own, user, own, own, user; [B, 5, 4]."""
    return torch.cat([own[:, :1], of_user[:, :1], own[:, 1:], of_user[:, 1:]], dim=1)


def layer(toy: Toy, of_user: Tensor, own: Tensor) -> Tensor:
    return toy.layer(joined(toy, of_user, own).flatten(1)).relu()


def halves(toy: Toy, of_user: Tensor, own: Tensor) -> Tensor:
    """Of every field the second half first."""
    first, second = joined(toy, of_user, own).split([2, 2], dim=2)
    return toy.layer(torch.cat([second.contiguous().flatten(1), first.flatten(1)], dim=1))


def in_place(toy: Toy, of_user: Tensor, own: Tensor) -> Tensor:
    """The fields change after they were joined, through a view of them."""
    fields = joined(toy, of_user, own)
    flat = fields.flatten(1)
    fields.mul_(own.sum())
    return toy.layer(flat)


def computed(toy: Toy, of_user: Tensor, own: Tensor) -> Tensor:
    return toy.layer(joined(toy, of_user, own).flatten(1).exp())


def tower(toy: Toy, of_user: Tensor, own: Tensor) -> Tensor:
    return toy.tower(of_user.flatten(1))


def total(toy: Toy, of_user: Tensor, own: Tensor) -> Tensor:
    return joined(toy, of_user, own).sum(1)


def squares(toy: Toy, of_user: Tensor, own: Tensor) -> Tensor:
    flat = joined(toy, of_user, own).flatten(1)
    return torch.linalg.vecdot(flat, flat)


def across_rows(toy: Toy, of_user: Tensor, own: Tensor) -> Tensor:
    """Every candidate with the fields of the candidate before it."""
    fields = joined(toy, of_user, own)
    return toy.layer(torch.cat([fields[-1:], fields[:-1]], dim=0).flatten(1))


def arguments(users: int, candidates: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    of_user, own = torch.randn(users, 2, 4), torch.randn(candidates, 3, 4)
    return of_user, own, torch.randint(users, (candidates,))


@functools.cache
def made(forward: Forward) -> tuple[Toy, Callable[..., Tensor]]:
    """A module, and what its program does after it was rewritten."""
    torch.manual_seed(1)
    toy = Toy(forward).eval()
    users, candidates = Dim("U", min=1), Dim("B", min=3)
    shapes = {"of_user": {0: users}, "own": {0: candidates}, "user": {0: candidates}}
    exported = torch.export.export(toy, arguments(3, 7), dynamic_shapes=shapes)
    return toy, share_users(exported, "user").module(check_guards=False)


@pytest.mark.parametrize(
    "forward",
    [layer, halves, in_place, computed, tower, total, squares, across_rows],
    ids=lambda f: f.__name__,
)
def test_program_says_the_same(forward: Forward) -> None:
    toy, run = made(forward)
    for users, candidates in ((1, 9), (4, 6)):
        asked = arguments(users, candidates)
        with torch.no_grad():
            torch.testing.assert_close(run(*asked), toy(*asked), rtol=1e-5, atol=1e-5)


# Two operations for every weight and row: 12 columns are a candidate's, 8 its user's.
@pytest.mark.parametrize(
    "forward,flops",
    [
        (layer, 2 * 5 * (100 * 12 + 1 * 8)),
        (halves, 2 * 5 * (100 * 12 + 1 * 8)),
        (tower, 2 * 6 * 1 * 8),
        (computed, 2 * 5 * 100 * 20),
        (across_rows, 2 * 5 * 100 * 20),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_columns_of_the_user_are_computed_once(forward: Forward, flops: int) -> None:
    _, run = made(forward)
    with FlopCounterMode(display=False) as counter:
        run(*arguments(1, 100))
    assert counter.get_total_flops() == flops
