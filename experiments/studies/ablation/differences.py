"""What separates the full model from every other one, with intervals; on simulated data also from the truth.

A gain is L of the other minus L of the model, L = NE or 1 - AUC: above 0 the model is the better one. Intervals are the
protocol's: Poisson bootstrap over users, paired by rows and seeds, plus the variance over seeds (`distill.interval`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill.cells import POOLED
from distill.interval import Estimate, combine, difference, ratio
from distill.measure import Key
from experiments.studies.scoring import ORACLE, Measured

MEASURES = ("ne", "auc")
SHARE = "share_of_distance"
"""Measure of a row that says which share of the best peer's distance to the truth the model takes away."""

BEST_PEER = "best_peer"
COLUMNS = (
    *("data", "variant", "against", "peer", "vertical", "task", "split", "measure"),
    *("gain", "low", "high", "seeds"),
)


def best_peers(tune: Measured, peers: Sequence[str]) -> dict[tuple[str, str], str]:
    """The peer to beat: the best one on the pooled rows of the tune days.

    Args:
        tune: losses on the tune days.
        peers: names.

    Returns:
        (task, measure) to the name; without those that no peer has.
    """
    best: dict[tuple[str, str], str] = {}
    for vertical, task, kind in dict.fromkeys(key for peer in peers for key in tune[peer]):
        losses = {peer: tune[peer].get((vertical, task, kind)) for peer in peers}
        known = {peer: loss.value for peer, loss in losses.items() if loss is not None}
        if vertical == POOLED and kind in MEASURES and known:
            best[task, kind] = min(known, key=lambda peer: known[peer])
    return best


def difference_rows(
    of: Measured, full: str, best: Mapping[tuple[str, str], str], shared: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The table of one split.

    Args:
        of: losses on that split.
        full: the full model's name.
        best: see `best_peers`.
        shared: `data` and `split`.

    Returns:
        Dictionaries with `COLUMNS`: the full model against every other model and against the best peer; every tuned
        model against the truth (`oracle`, NE only), and the share of the best peer's distance to it.
    """
    rows = []
    for key in of[full]:
        vertical, task, kind = key
        if kind not in MEASURES:
            continue
        place = {"vertical": vertical, "task": task, "measure": kind}
        rows += [{**shared, **place, **row} for row in _of_key(of, full, best.get((task, kind)), key)]
    return [{column: row[column] for column in COLUMNS} for row in rows]


def _of_key(of: Measured, full: str, peer: str | None, key: Key) -> list[dict[str, Any]]:
    others = [name for name in of if name not in (full, ORACLE)]
    rows = [_row(full, name, "", _gain(of, full, name, key)) for name in others]
    if peer is not None:
        rows.append(_row(full, BEST_PEER, peer, _gain(of, full, peer, key)))
    if ORACLE in of and key[2] == "ne":
        near = [full] if peer is None else [full, peer]
        rows += [_row(name, ORACLE, "", _gain(of, name, ORACLE, key)) for name in near]
        if peer is not None:
            rows.append(_row(full, BEST_PEER, peer, _share(of, full, peer, key)) | {"measure": SHARE})
    return rows


def _row(variant: str, against: str, peer: str, found: Estimate | None) -> dict[str, Any]:
    values = (found.value, found.low, found.high, found.seeds) if found else (None, None, None, None)
    row = {"variant": variant, "against": against, "peer": peer}
    return row | dict(zip(("gain", "low", "high", "seeds"), values, strict=True))


def _gain(of: Measured, name: str, other: str, key: Key) -> Estimate | None:
    mine, theirs = of[name].get(key), of[other].get(key)
    return None if mine is None or theirs is None else difference(theirs, mine)


def _share(of: Measured, full: str, peer: str, key: Key) -> Estimate | None:
    mine, theirs, oracle = (of[name].get(key) for name in (full, peer, ORACLE))
    if mine is None or theirs is None or oracle is None:
        return None
    gained = combine([(1.0, theirs), (-1.0, mine)])
    return ratio(gained, combine([(1.0, theirs), (-1.0, oracle)]))
