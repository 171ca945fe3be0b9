"""Rotary positions: places within jagged rows, and products that know of distances only."""

import cmath

import pytest
import torch

from teachers.rotary import places, rotate, turns


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [([0, 3, 3, 4], [2, 1, 0, 0]), ([0, 0, 0], []), ([0], []), ([0, 2], [1, 0])],
)
def test_places_count_from_the_newest_token(offsets, expected):
    assert places(torch.tensor(offsets), len(expected)).tolist() == expected


def test_pairs_are_turned_as_complex_numbers_are():
    torch.manual_seed(0)
    x, place = torch.randn(3, 2, 4, dtype=torch.float64), torch.tensor([0, 5, 4_000])
    found = rotate(x, turns(place, 4, x.dtype))
    for token, at in enumerate(place.tolist()):
        for head in range(2):
            for pair, speed in enumerate([1.0, 10_000.0**-0.5]):
                real, imaginary = x[token, head, 2 * pair : 2 * pair + 2].tolist()
                turned = complex(real, imaginary) * cmath.exp(-1j * speed * at)
                got = found[token, head, 2 * pair : 2 * pair + 2].tolist()
                assert got == pytest.approx([turned.real, turned.imag], abs=1e-12)


def test_products_depend_on_distances_only():
    torch.manual_seed(0)
    q, k = torch.randn(1, 8, dtype=torch.float64), torch.randn(1, 8, dtype=torch.float64)

    def product(i, j):
        of_q, of_k = (turns(torch.tensor([at]), 8, torch.float64) for at in (i, j))
        return (rotate(q, of_q) * rotate(k, of_k)).sum()

    torch.testing.assert_close(product(3, 10), product(1_003, 1_010))
    assert (product(3, 10) - product(10, 3)).abs() > 1e-3


def test_far_places_are_exact_in_float32():
    place = torch.tensor([3_999])
    x = torch.tensor([[1.0, 0.0]])
    assert rotate(x, turns(place, 2, torch.float32))[0, 0].item() == pytest.approx(
        cmath.exp(-3_999j).real, abs=1e-6
    )


def test_gradient_turns_back():
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    turn = turns(torch.tensor([2, 0, 7]), 4, torch.float64)
    assert torch.autograd.gradcheck(lambda x: rotate(x, turn), (x,))


def test_bfloat16_is_turned_in_float32():
    x = torch.randn(3, 2, 4).bfloat16()
    turn = turns(torch.tensor([2, 0, 7]), 4, x.dtype)
    found = rotate(x, turn)
    assert found.dtype == torch.bfloat16 and torch.equal(found, rotate(x.float(), turn).bfloat16())
