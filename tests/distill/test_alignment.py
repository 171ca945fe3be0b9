"""Orthogonal Procrustes: planted rotations are found, chains lead to the first space, bad input is refused."""

import numpy as np
import pytest

from distill.alignment import procrustes
from distill.errors import LogError

WIDTH = 5


def representations(rows: int = 40, seed: int = 0) -> np.ndarray:
    return np.tanh(np.random.default_rng(seed).normal(size=(rows, WIDTH)))


def planted(determinant: int, seed: int = 1) -> np.ndarray:
    """An orthogonal matrix: a rotation proper, or one with a reflection."""
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)))
    if np.sign(np.linalg.det(matrix)) != determinant:
        matrix[:, 0] *= -1
    return matrix


@pytest.mark.parametrize("determinant", [1, -1])
def test_a_planted_rotation_is_found(determinant: int) -> None:
    values, matrix = representations(), planted(determinant)
    found = procrustes(values, values @ matrix)
    np.testing.assert_allclose(found, matrix, atol=1e-12)
    assert np.sign(np.linalg.det(found)) == determinant


def test_equal_spaces_stay_as_they_are() -> None:
    values = representations()
    np.testing.assert_allclose(procrustes(values, values), np.eye(WIDTH), atol=1e-12)


def test_float32_is_turned_in_float64() -> None:
    values = representations().astype(np.float32)
    found = procrustes(values, values)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found @ found.T, np.eye(WIDTH), atol=1e-14)


def test_no_rotation_nearby_comes_closer_to_a_noisy_target() -> None:
    values, rng = representations(), np.random.default_rng(2)
    target = values @ planted(1) + 0.3 * rng.normal(size=values.shape)
    found = procrustes(values, target)
    np.testing.assert_allclose(found @ found.T, np.eye(WIDTH), atol=1e-12)
    best = np.linalg.norm(values @ found - target)
    for _ in range(20):
        skew = rng.normal(size=(WIDTH, WIDTH))
        step = np.eye(WIDTH) + 0.02 * (skew - skew.T)
        nearby, _ = np.linalg.qr(step)
        nearby = nearby * np.sign((nearby * step).sum(0))  # QR leaves the signs of the columns open
        assert np.linalg.norm(values @ found @ nearby - target) > best


def test_rotations_to_the_snapshot_before_chain_into_the_first_space() -> None:
    first = representations()
    second = first @ planted(1, seed=3)
    third = second @ planted(-1, seed=4)
    to_first = procrustes(third, second) @ procrustes(second, first)
    np.testing.assert_allclose(third @ to_first, first, atol=1e-12)


@pytest.mark.parametrize("shape", [(39, WIDTH), (40, WIDTH + 1), (40,)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(LogError, match=r"alignment: got representations of shape \[40, 5\] and"):
        procrustes(representations(), np.zeros(shape))


def test_too_few_examples_are_refused() -> None:
    few = representations(WIDTH - 1)
    with pytest.raises(LogError, match="alignment: got 4 examples for a width of 5, allowed: at least 5"):
        procrustes(few, few)


@pytest.mark.parametrize("name", ["source", "target"])
def test_numbers_that_are_not_finite_are_refused(name: str) -> None:
    values = {"source": representations(), "target": representations()}
    values[name][3, 1] = np.nan
    with pytest.raises(LogError, match=f"alignment: the {name} holds numbers that are not finite"):
        procrustes(values["source"], values["target"])
