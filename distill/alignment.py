"""Laying one snapshot's space of representations over another's (orthogonal Procrustes).

A teacher that keeps learning turns its space a little with every snapshot, so numbers of two snapshots are not
comparable (LoopFM, arXiv 2605.29280: refreshed snapshots cost a student's AUC). What both make of the same examples
gives the rotation that brings them closest. Rotations to the snapshot before multiply to one into the first space:
R_n @ ... @ R_2, as each is applied from the right.

Shape letters: N examples, R width of a representation.
"""

from __future__ import annotations

import numpy as np

from distill.errors import LogError


def procrustes(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation, reflections included, that minimises ||source @ rotation - target|| (Frobenius).

    Nothing is centred or scaled: lengths and angles in the turned space are those of the source.

    Args:
        source: float [N, R], one snapshot's representations of some examples.
        target: float [N, R], another snapshot's of the same examples, in the same order.

    Returns:
        float64 [R, R], orthogonal; applied from the right. Directions that the examples leave open are arbitrary.

    Raises:
        LogError: other shapes, fewer examples than numbers in a representation, a number that is not finite.

    Source: Schönemann 1966, "A generalized solution of the orthogonal Procrustes problem": with the singular value
    decomposition source.T @ target = U S V.T the rotation is U @ V.T.
    """
    if source.ndim != 2 or source.shape != target.shape:
        raise LogError(
            f"alignment: got representations of shape {list(source.shape)} and {list(target.shape)}, allowed: two of "
            "one shape [examples, width]. Both snapshots must be of one teacher."
        )
    examples, width = source.shape
    if examples < width:
        raise LogError(
            f"alignment: got {examples} examples for a width of {width}, allowed: at least {width}. Log more examples "
            "a day or make teacher.representation.dim smaller."
        )
    for name, values in (("source", source), ("target", target)):
        if not np.isfinite(values).all():
            raise LogError(f"alignment: the {name} holds numbers that are not finite, allowed: finite ones")
    left, _, right = np.linalg.svd(source.T.astype(np.float64) @ target.astype(np.float64))
    return left @ right
