"""How the teacher log stores representations: fp16, int8, or int4 by k-means (LoopFM, arXiv 2605.29280).

A representation is what a tanh gave, so its values lie within -1 and 1: int8 needs no scale of its own. With 16 values
a number, where they lie matters, and k-means places them where the numbers are (LoopFM: int8 near lossless, int4 in
even steps costs 0.03-0.07 % NE, int4 by k-means 0.01-0.02 %).

Shape letters: N examples, D width of a representation, S bytes of an example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from distill.errors import UserError, nearest

LEVELS = 16
"""Centroids of an int4 number."""

_STEPS = 50
_SAMPLE = 65_536
_PLACES = 128  # a multiple of LEVELS, so that 16 even steps are among what is tried


class Codec(ABC):
    """Representations to bytes and back.

    Args:
        dim: D.

    Attributes:
        name: what a YAML file calls it.
        size: S, bytes of one example.
    """

    name: ClassVar[str]

    def __init__(self, dim: int):
        self.dim = dim

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes of one example."""

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Bytes of representations.

        Args:
            values: float32 [N, D], within -1 and 1.

        Returns:
            uint8 [N, S].

        Raises:
            ValueError: a value that is not finite or lies outside, with its row.
        """
        _refuse_outside(values, self.dim)
        return self._encode(values)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """What is left of the representations.

        Args:
            codes: uint8 [N, S].

        Returns:
            float32 [N, D].
        """
        assert codes.dtype == np.uint8 and codes.shape[1:] == (self.size,), (codes.dtype, codes.shape)
        return self._decode(np.ascontiguousarray(codes))

    @abstractmethod
    def _encode(self, values: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def _decode(self, codes: np.ndarray) -> np.ndarray: ...


class Float16(Codec):
    """Half precision, little-endian: an error of at most 2^-12."""

    name = "fp16"

    @property
    def size(self) -> int:
        return 2 * self.dim

    def _encode(self, values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values, "<f2").view(np.uint8)

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        return codes.view("<f2").astype(np.float32)


class Int8(Codec):
    """Steps of 1/127 from -1 to 1: an error of at most 1/254."""

    name = "int8"

    @property
    def size(self) -> int:
        return self.dim

    def _encode(self, values: np.ndarray) -> np.ndarray:
        return np.rint(values * np.float32(127)).astype(np.int8).view(np.uint8)

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        return codes.view(np.int8).astype(np.float32) / np.float32(127)


class Int4(Codec):
    """The nearest of 16 centroids for every number, two numbers a byte, the even one in the lower half.

    Args:
        centroids: float32 [D, 16], rising in every row.
    """

    name = "int4"

    def __init__(self, centroids: np.ndarray):
        super().__init__(len(centroids))
        self.centroids = centroids.astype(np.float32)

    @classmethod
    def fit(cls, values: np.ndarray) -> Int4:
        """Centroids of every column by k-means, on at most 65,536 rows spread over all.

        Args:
            values: float32 [N, D].
        """
        sample = values[:: max(1, -(-len(values) // _SAMPLE))]
        columns = np.sort(sample.T.astype(np.float64), axis=1)
        return cls(np.stack([_k_means(column) for column in columns]))

    @property
    def size(self) -> int:
        return (self.dim + 1) // 2

    def _encode(self, values: np.ndarray) -> np.ndarray:
        codes = np.zeros((len(values), 2 * self.size), np.uint8)
        for place, centroids in enumerate(self.centroids):
            codes[:, place] = np.searchsorted(_middles(centroids), values[:, place])
        return codes[:, 0::2] | codes[:, 1::2] << 4

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        places = np.stack([codes & 15, codes >> 4], axis=2).reshape(len(codes), 2 * self.size)
        return np.take_along_axis(self.centroids.T, places[:, : self.dim].astype(np.intp), axis=0)


_PLAIN: dict[str, type[Float16] | type[Int8]] = {kind.name: kind for kind in (Float16, Int8)}


def fit_codec(name: str, values: np.ndarray) -> Codec:
    """The codec for these representations.

    Args:
        name: fp16, int8 or int4.
        values: float32 [N, D], those that will be stored, finite.

    Raises:
        UserError: unknown name.
    """
    if name == Int4.name:
        return Int4.fit(values)
    return make_codec(name, values.shape[1])


def make_codec(name: str, dim: int, centroids: np.ndarray | None = None) -> Codec:
    """The codec that stored representations were written with.

    Args:
        name: fp16, int8 or int4.
        dim: D.
        centroids: float32 [D, 16] of int4.

    Raises:
        UserError: unknown name, or int4 without its centroids.
    """
    names = (*_PLAIN, Int4.name)
    if name not in names:
        raise UserError(f"codec: got '{name}', allowed: {', '.join(names)}. {nearest(name, names)}".rstrip())
    if name in _PLAIN:
        return _PLAIN[name](dim)
    if centroids is None or centroids.shape != (dim, LEVELS):
        got = "none" if centroids is None else f"an array {centroids.shape}"
        raise UserError(f"codec int4: centroids: got {got}, allowed: {dim} rows of {LEVELS}")
    return Int4(centroids)


def _refuse_outside(values: np.ndarray, dim: int) -> None:
    assert values.ndim == 2 and values.shape[1] == dim, values.shape
    bad = ~(np.abs(values) <= 1)  # NaN compares as false
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"representation: row {row}, column {column}: got {values[row, column]}, allowed: -1 to 1"
        )


def _k_means(column: np.ndarray) -> np.ndarray:
    """Centroids of sorted numbers: the best partition at a few hundred places, then Lloyd's steps, which only gain.

    Args:
        column: float64 [N], sorted.

    Returns:
        float64 [16], rising; the last ones are repeated where there are fewer different numbers.
    """
    if not column.size:
        return np.zeros(LEVELS)
    sums = _running_sums(column)
    centroids = _means(sums, _best_edges(column, sums))
    for _ in range(_STEPS):
        edges = np.searchsorted(column, _middles(centroids))
        moved = _means(sums, np.concatenate([[0], edges, [column.size]]))
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids


def _best_edges(column: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Where to cut sorted numbers into 16 parts of the least squared error, among even steps and quantiles.

    Dynamic programming over the number of parts; a part may be empty.

    Returns:
        int64 [17], from 0 to N.
    """
    size = column.size
    steps = np.searchsorted(column, np.linspace(column[0], column[-1], _PLACES + 1))
    places = np.unique(np.concatenate([steps, np.arange(_PLACES + 1) * size // _PLACES]))
    cost = _part_errors(column, sums, places)
    least, cuts = cost[0], []
    for _ in range(LEVELS - 1):
        total = least[:, None] + cost
        cuts.append(total.argmin(axis=0))
        least = total.min(axis=0)
    edges = [len(places) - 1]
    for cut in reversed(cuts):
        edges.append(cut[edges[-1]])
    return places[[0, *reversed(edges)]]


def _part_errors(column: np.ndarray, sums: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Squared error of the numbers between any two places around their mean; infinite for the wrong order."""
    squares = _running_sums(np.square(column))
    count, total, square = (
        values[None, :] - values[:, None] for values in (places, sums[places], squares[places])
    )
    errors = square - np.square(total) / np.maximum(count, 1)
    return np.where(count < 0, np.inf, errors)


def _means(sums: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Means of the parts that hold a number; the last one is repeated for those that do not."""
    edges = np.unique(edges)
    means = np.diff(sums[edges]) / np.diff(edges)
    return np.pad(means, (0, LEVELS - means.size), mode="edge")


def _middles(centroids: np.ndarray) -> np.ndarray:
    return (centroids[1:] + centroids[:-1]) / 2


def _running_sums(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(values)])
