"""The claim "all channels carry at least twice what auxiliary heads carry" (PROTOCOL.md). Free of torch.

Tested is delta_all - 2 delta_ah > 0, with delta = L_none - L_x summed over verticals: unlike the ratio, the
difference has an interval whatever the sign of delta_ah.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distill.cells import Cell
from distill.interval import Estimate, Statistic, combine, estimate
from distill.measure import MEASURES
from distill.transfer import Group, Losses

PASS, FAIL, UNDEFINED = "pass", "fail", "undefined"

WHOLES = ("all", "all_surfaces", "all_corrected", "all_levelled", "all_rows")
"""Channel sets that are the whole of transfer: on the student's own rows, and on those of other surfaces as well, from
a teacher as it is or corrected, with a level of the own labels', and with the labels of those rows."""


@dataclass(frozen=True)
class TwiceClaim:
    """The claim with what it rests on.

    Attributes:
        difference: delta_all - 2 delta_ah.
        delta_all, delta_ah: gains over `none`.
        ah_over_single: delta_ah - delta_single, which must lie above 0 for the claim to pass.
        verdict: `undefined` when delta_ah <= 0; else `pass` when the intervals of `difference` and of
            `ah_over_single` both lie above 0; else `fail`.
    """

    difference: Estimate
    delta_all: Estimate
    delta_ah: Estimate
    ah_over_single: Estimate
    verdict: str


def twice_claim(delta_all: Statistic, delta_ah: Statistic, delta_single: Statistic) -> TwiceClaim:
    """Test delta_all - 2 delta_ah > 0, `all` being one of WHOLES.

    Args:
        delta_all, delta_ah, delta_single: gains over `none`, of the same seeds (`Losses.gain`).

    Raises:
        ScoreError: seeds that differ.
    """
    claim = estimate(combine([(1.0, delta_all), (-2.0, delta_ah)]))
    gate = estimate(combine([(1.0, delta_ah), (-1.0, delta_single)]))
    verdict = PASS if claim.above_zero and gate.above_zero else FAIL
    if delta_ah.value <= 0:
        verdict = UNDEFINED
    return TwiceClaim(claim, estimate(delta_all), estimate(delta_ah), gate, verdict)


def twice_claims(losses: Losses) -> dict[tuple[Group, str, str], TwiceClaim]:
    """The claim for every group of a whole channel set that can be tested.

    Args:
        losses: measured cells; `none`, `single`, `ah` and one of WHOLES of one condition need a student on every
            vertical.

    Returns:
        (group of the whole set, task, measure) -> claim; conditions that lack a channel, a vertical or a
        defined loss are absent.
    """
    groups = losses.groups()
    claims = {}
    for group, cells in groups.items():
        if group.channel not in WHOLES:
            continue
        channels = [groups.get(group._replace(channel=name), {}) for name in (group.channel, "ah", "single")]
        if any(set(members) != set(losses.verticals) for members in channels):
            continue
        for task in losses.tasks(cells):
            for kind in MEASURES:
                gains = _gains(losses, channels, task, kind)
                if gains:
                    claims[group, task, kind] = twice_claim(*gains)
    return claims


def _gains(losses: Losses, channels: Sequence[Mapping[str, Cell]], task: str, kind: str) -> list[Statistic]:
    gains = [losses.gain(cells, task, kind) for cells in channels]
    defined = [gain for gain in gains if gain is not None]
    return defined if len(defined) == len(gains) else []
