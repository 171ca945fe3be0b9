"""From the teacher's width to the student's: what is lost, what is learnt, what stays when rows change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from adapters.table_projections import EqualWidths, LearnedProjection, SVDProjection, svd_basis


def low_rank(rows: int = 200, width: int = 8, seed: int = 0) -> Tensor:
    """Rows in which every direction has a length of its own."""
    generator = torch.Generator().manual_seed(seed)
    turned = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    sizes = 0.1 * 0.6 ** torch.arange(width)
    return torch.randn(rows, width, generator=generator) * sizes @ turned


def lost(rows: Tensor, basis: Tensor) -> float:
    """Squared length of what the basis cannot give back."""
    exact, axes = rows.double().numpy(), basis.double().numpy()
    return float(np.square(exact - exact @ axes @ axes.T).sum())


@pytest.mark.parametrize("dim", [1, 4, 8])
def test_basis_loses_least(dim: int) -> None:
    rows = low_rank()
    _, sizes, axes = np.linalg.svd(rows.double().numpy(), full_matrices=False)
    basis = svd_basis(rows, dim)
    assert basis.dtype == torch.float32
    assert lost(rows, basis) == pytest.approx(np.square(sizes[dim:]).sum(), rel=1e-4, abs=1e-10)
    same = np.abs(np.sum(axes[:dim] * basis.double().numpy().T, axis=1))
    np.testing.assert_allclose(same, 1, atol=1e-5)
    np.testing.assert_allclose(basis.T @ basis, np.eye(dim), atol=1e-6)


def test_basis_does_not_hang_on_signs() -> None:
    rows = low_rank()
    torch.testing.assert_close(svd_basis(rows, 4), svd_basis(-rows.flip(0), 4))
    assert (svd_basis(rows, 4).gather(0, svd_basis(rows, 4).abs().argmax(0, keepdim=True)) > 0).all()


def test_basis_of_fewer_rows_than_columns() -> None:
    rows = low_rank(rows=2)
    basis = svd_basis(rows, 4)
    assert lost(rows, basis) < 1e-12
    np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-6)


def test_wider_students_get_zeros() -> None:
    rows = low_rank(width=4)
    basis = svd_basis(rows, 8)
    assert basis.shape == (4, 8) and not basis[:, 4:].any() and lost(rows, basis) < 1e-10


def test_svd_projects_each_table_by_its_own_basis() -> None:
    projection = SVDProjection(2, 8, 4)
    tables = [low_rank(seed=1), low_rank(seed=2)]
    assert not projection(torch.stack(tables, 1)).any()
    projection.fit(tables)
    fields = projection(torch.stack(tables, 1))
    for place, rows in enumerate(tables):
        torch.testing.assert_close(fields[:, place], rows @ svd_basis(rows, 4))
    assert not list(projection.parameters())


def test_learned_fields_start_as_small_as_new_rows_whatever_the_teachers_size() -> None:
    for size in (0.001, 1.0, 50.0):
        torch.manual_seed(0)
        projection = LearnedProjection(1, 32, 16)
        rows = size * torch.randn(4000, 32)
        projection.fit([rows])
        assert projection(rows.unsqueeze(1)).std().item() == pytest.approx(0.01, rel=0.1)


def test_learned_by_hand() -> None:
    projection = LearnedProjection(2, 8, 4)
    tables = [low_rank(seed=1), 10 * low_rank(seed=2)]
    projection.fit(tables)
    fields = projection(torch.stack(tables, 1)).detach().numpy()
    for place, rows in enumerate(tables):
        exact, weight = rows.double().numpy(), projection.weight[place].detach().double().numpy()
        np.testing.assert_allclose(
            fields[:, place], exact / np.sqrt(np.square(exact).sum(1).mean()) @ weight, atol=1e-6
        )


def test_learned_without_a_row_to_look_at() -> None:
    projection = LearnedProjection(2, 8, 4)
    projection.fit([torch.zeros(0, 8), torch.zeros(3, 8)])
    assert projection.scale.tolist() == [[1.0], [1.0]]


def test_equal_widths_change_nothing() -> None:
    rows = torch.randn(3, 2, 4)
    projection = EqualWidths()
    projection.fit([rows[:, 0], rows[:, 1]])
    assert torch.equal(projection(rows), rows)
