"""What is a surface's own: scale and shift, experts and their gates, against float64 restatements row by row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from teachers.surfaces import SurfaceExperts, SurfaceNorm

DOMAINS, TASKS, WIDTH, WIDTHS, EXPERTS = 3, 2, 5, [4, 6], 3
SURFACES = torch.tensor([2, 0, 0, 2])  # surface 1 is absent


def rows(n: int = 4, width: int = WIDTH) -> Tensor:
    return torch.randn(n, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def randomised(module: nn.Module, seed: int = 1) -> None:
    """Values for what starts at zero."""
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))


def norm(random: bool = True) -> SurfaceNorm:
    module = SurfaceNorm(DOMAINS, WIDTH).double()
    if random:
        randomised(module.scale, 1)
        randomised(module.shift, 2)
    return module


def experts(dropout: float = 0.0, count: int = EXPERTS, random: bool = True) -> SurfaceExperts:
    torch.manual_seed(0)
    module = SurfaceExperts(DOMAINS, TASKS, WIDTH, WIDTHS, count, dropout).double()
    if random:
        randomised(module.table)
        randomised(module.gate)
    return module


# Scale and shift


def test_norm_starts_as_the_identity() -> None:
    assert torch.equal(norm(random=False)(rows(), SURFACES), rows())


def test_norm_scales_and_shifts_each_row_as_its_surface_does() -> None:
    module = norm()
    expected = torch.stack(
        [
            row * (1 + module.scale.weight[surface]) + module.shift.weight[surface]
            for row, surface in zip(rows(), SURFACES.tolist(), strict=True)
        ]
    )
    torch.testing.assert_close(module(rows(), SURFACES), expected)


def test_norm_gradients() -> None:
    module, x = norm(), rows().requires_grad_()

    def call(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        weights = {"scale.weight": scale, "shift.weight": shift}
        return torch.func.functional_call(module, weights, (x, SURFACES))

    weights = [p.detach().clone().requires_grad_() for p in module.parameters()]
    assert torch.autograd.gradcheck(call, (x, *weights))


def test_norm_of_no_rows() -> None:
    assert norm()(rows(0), torch.zeros(0, dtype=torch.int64)).shape == (0, WIDTH)


def test_norm_sends_an_absent_surface_nothing() -> None:
    module = norm()
    module(rows(), SURFACES).square().sum().backward()
    for table in (module.scale, module.shift):
        assert table.weight.grad is not None and not table.weight.grad[1].any()
        assert table.weight.grad[[0, 2]].ne(0).all()


def test_adam_leaves_a_surface_alone_until_it_is_seen_and_then_moves_it_by_its_momentum() -> None:
    module = norm()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)

    def step(surfaces: Tensor) -> bool:
        """Whether the step moved surface 1."""
        before = module.scale.weight[1].clone()
        optimizer.zero_grad()
        module(rows(), surfaces).square().sum().backward()
        optimizer.step()
        return not torch.equal(before, module.scale.weight[1])

    assert [step(SURFACES), step(torch.tensor([1, 0, 0, 2])), step(SURFACES)] == [False, True, True]


# Experts


def restated(module: SurfaceExperts, x: Tensor, surfaces: Tensor) -> Tensor:
    """Every expert on every row, one after the other, then the weighted sum."""
    result = torch.zeros(len(x), TASKS, WIDTHS[-1], dtype=torch.float64)
    for b, (row, surface) in enumerate(zip(x, surfaces.tolist(), strict=True)):
        opinions = []
        for e in range(module.experts):
            hidden = row
            for weight, bias in zip(module.weights, module.biases, strict=True):
                hidden = (hidden @ weight[e] + bias[e, 0]).clamp_min(0)
            opinions.append(hidden)
        for t in range(TASKS):
            places = range(t * module.experts, (t + 1) * module.experts)
            logits = [module.table.weight[surface, p] + module.gate.weight[p] @ row for p in places]
            shares = torch.stack(logits).exp()
            shares = shares / shares.sum()
            result[b, t] = sum(share * opinion for share, opinion in zip(shares, opinions, strict=True))
    return result


@pytest.mark.parametrize("count", [1, EXPERTS])
def test_experts_follow_their_equation_forward_and_backward(count: int) -> None:
    module, x = experts(count=count), rows()
    found, expected = (
        torch.autograd.grad(f.square().sum(), list(module.parameters()))
        for f in (module(x, SURFACES), restated(module, x, SURFACES))
    )
    torch.testing.assert_close(module(x, SURFACES), restated(module, x, SURFACES))
    torch.testing.assert_close(found, expected)


def test_experts_gradient_of_their_input() -> None:
    module = experts()
    assert torch.autograd.gradcheck(lambda x: module(x, SURFACES), rows().requires_grad_())


def test_experts_start_equally_weighted_and_different() -> None:
    module = experts(random=False)
    torch.testing.assert_close(
        module.shares(rows(), SURFACES), torch.full((4, TASKS, EXPERTS), 1 / EXPERTS, dtype=torch.float64)
    )
    first, second, third = module.weights[0].detach()
    assert not torch.equal(first, second) and not torch.equal(second, third)


def test_every_part_learns_from_the_start() -> None:
    module = experts(random=False)
    (module(rows(), SURFACES) * rows(4, TASKS * WIDTHS[-1]).view(4, TASKS, -1)).sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_gate_of_an_absent_surface_gets_nothing() -> None:
    module = experts()
    module(rows(), SURFACES).square().sum().backward()
    gradient = module.table.weight.grad
    assert gradient is not None and not gradient[1].any() and gradient[0].any() and gradient[2].any()


def test_surfaces_and_tasks_see_different_mixtures_of_the_same_row() -> None:
    same = rows(1).expand(2, -1)
    found = experts()(same, torch.tensor([0, 1]))
    assert not torch.allclose(found[0], found[1]) and not torch.allclose(found[:, 0], found[:, 1])


def test_dropout_only_in_training() -> None:
    module = experts(dropout=0.5)
    assert not torch.equal(module(rows(), SURFACES), module(rows(), SURFACES))
    module.eval()
    torch.testing.assert_close(module(rows(), SURFACES), restated(module, rows(), SURFACES))


def test_experts_of_no_rows() -> None:
    assert experts()(rows(0), torch.zeros(0, dtype=torch.int64)).shape == (0, TASKS, WIDTHS[-1])
