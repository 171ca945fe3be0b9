"""Storing representations: bytes as stated, errors within bounds, int4 where the numbers are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from distill import codecs
from distill.codecs import Codec, Int4, fit_codec, make_codec
from distill.errors import UserError

Array = NDArray[Any]
NAMES = ("fp16", "int8", "int4")
BYTES = {"fp16": {1: 2, 7: 14, 32: 64}, "int8": {1: 1, 7: 7, 32: 32}, "int4": {1: 1, 7: 4, 32: 16}}


def tanh_values(rows: int, dim: int, seed: int = 0) -> Array:
    return np.tanh(np.random.default_rng(seed).normal(size=(rows, dim))).astype(np.float32)


def crowded(rows: int = 4000) -> Array:
    """Columns of which even steps, or equal shares, make little: crowded near 0 or -1, two heaps, one far number."""
    random = np.random.default_rng(1)
    lone = random.normal(0, 0.001, rows)
    lone[0] = 1.0
    heaps = np.where(random.random(rows) < 0.97, -0.9, 0.7) + random.normal(0, 0.01, rows)
    columns = [random.normal(0, 0.02, rows), random.exponential(0.05, rows) - 1, heaps, lone]
    return np.clip(np.stack([*columns, random.uniform(-1, 1, rows)], axis=1), -1, 1).astype(np.float32)


def round_trip(codec: Codec, values: Array) -> Array:
    return codec.decode(codec.encode(values))


def squares(codec: Codec, values: Array) -> Array:
    """Sum of squared errors of each column."""
    return np.square(round_trip(codec, values).astype(np.float64) - values).sum(axis=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [1, 7, 32])
@pytest.mark.parametrize("rows", [0, 1, 50])
def test_bytes_of_an_example(name: str, dim: int, rows: int) -> None:
    values = tanh_values(rows, dim)
    codec = fit_codec(name, values)
    codes = codec.encode(values)
    assert codec.size == BYTES[name][dim]
    assert codes.shape == (rows, BYTES[name][dim]) and codes.dtype == np.uint8
    decoded = codec.decode(codes)
    assert decoded.shape == (rows, dim) and decoded.dtype == np.float32


@pytest.mark.parametrize(("name", "bound"), [("fp16", 2.0**-12), ("int8", 0.5 / 127 + 1e-7)])
def test_error_of_a_number_is_bounded(name: str, bound: float) -> None:
    values = np.concatenate([tanh_values(5000, 3), [[-1, 1, 0]], [[1e-9, -1e-9, 0.5]]]).astype(np.float32)
    decoded = round_trip(make_codec(name, 3), values)
    assert np.abs(decoded.astype(np.float64) - values).max() <= bound
    assert decoded[-2].tolist() == [-1, 1, 0], "the ends and the middle are exact"


def test_int8_by_hand() -> None:
    values = np.array([[-1, 1], [0.5, -0.5], [1 / 254 + 1e-4, 0]], np.float32)
    assert make_codec("int8", 2).encode(values).view(np.int8).tolist() == [[-127, 127], [64, -64], [1, 0]]


def test_int4_takes_the_nearest_centroid() -> None:
    values = tanh_values(500, 5)
    codec = Int4.fit(values)
    distance = np.abs(values[:, :, None].astype(np.float64) - codec.centroids.astype(np.float64))
    nearest = np.take_along_axis(codec.centroids.T, distance.argmin(axis=2), axis=0)
    assert np.array_equal(round_trip(codec, values), nearest)


def test_int4_centroids_are_the_means_of_their_numbers() -> None:
    values = tanh_values(500, 3)
    codec = Int4.fit(values)
    decoded = round_trip(codec, values)
    for column, centroids in zip(values.T, codec.centroids, strict=True):
        own = decoded[:, values.T.tolist().index(column.tolist())]
        means = [column[own == centroid].astype(np.float64).mean() for centroid in centroids]
        np.testing.assert_allclose(means, centroids, atol=1e-3)


def test_int4_packs_two_numbers_a_byte_even_one_low() -> None:
    levels = np.linspace(-1, 1, 16)
    codec = make_codec("int4", 3, np.tile(levels, (3, 1)))
    codes = codec.encode(levels[[[1, 2, 3], [15, 0, 10]]].astype(np.float32))
    assert codes.tolist() == [[1 + 16 * 2, 3], [15, 10]]


def test_int4_keeps_sixteen_values_exactly() -> None:
    levels = np.random.default_rng(2).uniform(-1, 1, (16, 3)).astype(np.float32)
    values = np.tile(levels, (10, 1))
    assert np.array_equal(round_trip(Int4.fit(values), values), values)


@pytest.mark.parametrize("column", range(5))
def test_int4_beats_even_steps(column: int) -> None:
    values = crowded()[:, [column]]
    found = squares(Int4.fit(values), values)[0]
    for low, high in ((-1.0, 1.0), (values.min(), values.max())):
        steps = low + (high - low) * (np.arange(16) + 0.5) / 16
        even = np.abs(values - steps).min(axis=1)
        assert found <= np.square(even).sum() * (1 + 1e-6)
    if column < 3:
        assert found < 0.7 * np.square(even).sum()


def test_int4_is_as_good_as_scikit_learns_best_of_five() -> None:
    values = crowded(2000)
    found = squares(Int4.fit(values), values)
    for column, own in zip(values.T, found, strict=True):
        best = KMeans(16, n_init=5, random_state=0).fit(column[:, None].astype(np.float64)).inertia_
        assert own <= 1.02 * best


def test_int4_of_constant_columns_is_exact() -> None:
    values = np.tile(np.array([0.3, -1, 0, 1], np.float32), (7, 1))
    assert np.array_equal(round_trip(Int4.fit(values), values), values)


def test_int4_of_many_rows_is_fitted_on_rows_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.sort(tanh_values(4001, 2), axis=0)  # the first rows alone would be a bad sample
    whole = squares(Int4.fit(values), values)
    monkeypatch.setattr(codecs, "_SAMPLE", 400)
    assert (squares(Int4.fit(values), values) < 1.2 * whole).all()


def test_order_of_error() -> None:
    values = tanh_values(5000, 8)
    errors = [squares(fit_codec(name, values), values).sum() for name in NAMES]
    assert errors[0] < 0.01 * errors[1] < 0.01 * 0.01 * errors[2]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.5, -1.01])
def test_number_outside_is_refused_with_its_place(name: str, value: float) -> None:
    values = tanh_values(5, 3)
    codec = fit_codec(name, values)
    values[2, 1] = value
    with pytest.raises(ValueError, match=r"representation: row 2, column 1: got .*, allowed: -1 to 1"):
        codec.encode(values)


def test_unknown_codec() -> None:
    with pytest.raises(UserError, match="codec: got 'int3', allowed: fp16, int8, int4. Did you mean 'int"):
        make_codec("int3", 4)


@pytest.mark.parametrize(("centroids", "got"), [(None, "none"), (np.zeros((3, 16)), r"an array \(3, 16\)")])
def test_int4_without_its_centroids(centroids: Array | None, got: str) -> None:
    with pytest.raises(UserError, match=f"codec int4: centroids: got {got}, allowed: 4 rows of 16"):
        make_codec("int4", 4, centroids)
