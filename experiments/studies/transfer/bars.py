"""The bars of the transfer study, each with the protocol's interval (PROTOCOL.md, "Transfer ratio").

A gain is that of a channel over `none` in a loss L (NE, 1 - AUC, NE after intercept): above 0 the channel is the better
one. `numerator` and `denominator` are the gains of `channel` and of `against`; `value` is what must lie above 0. Their
ratio is told for "twice" alone, and only where `ah`, or `single`, gains anything. Bars over verticals are sums over
them, as in transfer ratios; those of small verticals are of their rows pooled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from distill.bootstrap import DRAWS
from distill.cells import POOLED
from distill.claims import FAIL, PASS, WHOLES, twice_claims
from distill.claims import UNDEFINED as NO_CLAIM
from distill.interval import Estimate, Statistic, combine, estimate
from distill.measure import MEASURES, Key, measure
from distill.predictions import CellPredictions
from distill.rates import Rates
from distill.results import Row
from distill.transfer import MACRO, Group, Losses
from experiments.studies.transfer.joined import joined

OK, MISSED, UNDEFINED = "ok", "MISSED", "undefined"

TWICE, OVER_SINGLE, OVER_HISTORY, SMALL = "twice", "ah_over_single", "over_rawid", "small_verticals"
TWICE_SINGLE, SURFACES = "twice_single", "other_surfaces"
ADAPTER, HARMLESS, GROWTH = "adapter_helps", "adapter_harmless", "adapter_grows"
BAR_COLUMNS = (
    *(
        "bar",
        "model",
        "schedule",
        "inputs",
        "route",
        "lag",
        "channel",
        "against",
        "vertical",
        "task",
        "split",
    ),
    *("measure", "value", "low", "high", "numerator", "denominator", "ratio", "seeds", "verdict"),
)

_VERDICTS = {PASS: OK, FAIL: MISSED, NO_CLAIM: UNDEFINED}
_AH, _ADAPTER, _SINGLE, _HISTORY, _NONE = "ah", "ah_adapter", "single", "rawid", "none"
_SURFACES, _LABELS = "single_surfaces", "labels_surfaces"
# What other surfaces' rows add to a set, the teacher to those rows' labels, the other channels to both; then the own
# labels' level, and other rows' labels beside the teacher.
_WITH_OTHERS = (
    (_SURFACES, _SINGLE),
    (_SURFACES, _LABELS),
    ("ah_surfaces", _AH),
    ("all_surfaces", _LABELS),
    ("all_surfaces", _SURFACES),
    ("all_corrected", _LABELS),
    ("all_corrected", _SURFACES),
    ("all_levelled", "all_corrected"),
    ("all_rows", _LABELS),
    ("all_rows", "all_levelled"),
)
# A corrected teacher and, in the same place, the teacher as it is.
_CORRECTED = ((_ADAPTER, _AH), ("adapter_surfaces", _SURFACES), ("all_corrected", "all_surfaces"))

Verdict = Callable[[Estimate], str]


def claims(losses: Losses) -> list[Row]:
    """The bars over all verticals of one split: twice, ah over single, the whole over rawid, sets with other surfaces'
    rows over sets without and over those rows' labels, the adapter by lag.

    Args:
        losses: measured cells of all slices.

    Returns:
        Dictionaries with `BAR_COLUMNS`, wherever the channels that a bar is about have been trained.
    """
    return [
        *_over(losses, OVER_SINGLE, _AH, _SINGLE),
        *_twice(losses),
        *(row for whole in WHOLES for row in _over(losses, TWICE_SINGLE, whole, _SINGLE, times=2)),
        *(row for whole in WHOLES for row in _over(losses, OVER_HISTORY, whole, _HISTORY)),
        *(row for pair in _WITH_OTHERS for row in _over(losses, SURFACES, *pair)),
        *(row for pair in _CORRECTED for row in _adapter(losses, *pair)),
    ]


def small_verticals(
    sources: Sequence[CellPredictions], small: Sequence[str], rates: Rates, split: str, draws: int = DRAWS
) -> list[Row]:
    """The bars of the small verticals: the whole against `none` and against `ah` on their pooled rows.

    Args:
        sources: cells with their predictions; roles other than `student` are left out.
        small: the verticals.
        rates: p of each of these verticals, and of their pooled rows.
        split: `tune` or `test`.
        draws: bootstrap draws over users.

    Returns:
        Dictionaries with `BAR_COLUMNS`.
    """
    students = joined(sources, small)
    whole = [group for group in students if group.channel in WHOLES]
    named = [group._replace(channel=name) for group in whole for name in (_NONE, _AH, group.channel)]
    judged = [group for group in dict.fromkeys(named) if group in students]
    found = measure([students[group] for group in judged], small, rates, split, draws) if judged else []
    of = dict(zip(judged, found, strict=True))
    return [row for group in whole for row in _small(group, of, split)]


def bar_row(
    bar: str,
    group: Group,
    against: str,
    key: Key,
    split: str,
    found: Estimate | None,
    sides: tuple[float | None, float | None],
    verdict: str,
) -> Row:
    """A row of the table of bars.

    Args:
        bar: its name.
        group: the condition, and the channel that is judged.
        against: the other channel; empty for none.
        key: vertical, task and measure.
        split: `tune` or `test`.
        found: value and interval.
        sides: numerator and denominator.
        verdict: ok, MISSED or undefined.
    """
    value = found or Estimate(None, None, None, 0)
    top, bottom = sides
    ratio = None
    if bar in (TWICE, TWICE_SINGLE) and top is not None and bottom is not None and bottom > 0:
        ratio = top / bottom
    row = {
        **group._asdict(),
        **dict(zip(("vertical", "task", "measure"), key, strict=True)),
        **{"bar": bar, "against": against, "split": split, "verdict": verdict},
        **{name: getattr(value, name) for name in ("value", "low", "high")},
        **{"numerator": top, "denominator": bottom, "ratio": ratio},
        "seeds": found.seeds if found else None,
    }
    return {column: row[column] for column in BAR_COLUMNS}


def above_zero(found: Estimate) -> str:
    """ok when the interval lies above 0."""
    return UNDEFINED if found.low is None else OK if found.above_zero else MISSED


def no_bar(found: Estimate) -> str:
    """undefined, whatever was found."""
    return UNDEFINED


def harmless(found: Estimate) -> str:
    """MISSED when the interval lies below 0: a harm that is no accident."""
    return UNDEFINED if found.high is None else MISSED if found.high < 0 else OK


def _twice(losses: Losses) -> Iterator[Row]:
    for (group, task, kind), claim in twice_claims(losses).items():
        sides = claim.delta_all.value, claim.delta_ah.value
        key, verdict = (MACRO, task, kind), _VERDICTS[claim.verdict]
        yield bar_row(TWICE, group, _AH, key, losses.split, claim.difference, sides, verdict)


def _over(losses: Losses, bar: str, channel: str, against: str, times: float = 1) -> Iterator[Row]:
    """One channel's gain over so many times another's, summed over all verticals."""
    for group, task, kind, gains in _pairs(losses, channel, against):
        # Twice nothing, or twice a loss, is no bar.
        nothing = times > 1 and gains[1] is not None and gains[1].value <= 0
        judge = no_bar if nothing else above_zero
        yield _difference(bar, group, against, (MACRO, task, kind), losses.split, gains, judge, times)


def _adapter(losses: Losses, corrected: str, plain: str) -> Iterator[Row]:
    """What the adapter adds at every lag: no harm at small ones, a gain at the largest, growth between."""
    of_lag: dict[tuple[Group, str, str], dict[int, list[Statistic | None]]] = defaultdict(dict)
    for group, task, kind, gains in _pairs(losses, corrected, plain):
        if group.schedule == "progressive":
            of_lag[group._replace(lag=0), task, kind][group.lag] = gains
    for (group, task, kind), lags in of_lag.items():
        key, least, most = (MACRO, task, kind), min(lags), max(lags)
        for lag, gains in sorted(lags.items()):
            bar, judge = (ADAPTER, above_zero) if lag == most > 0 else (HARMLESS, harmless)
            yield _difference(bar, group._replace(lag=lag), plain, key, losses.split, gains, judge)
        if most > least:
            gains = [_minus(lags[lag]) for lag in (most, least)]
            yield _difference(GROWTH, group._replace(lag=most), plain, key, losses.split, gains, above_zero)


def _small(group: Group, of: Mapping[Group, Mapping[Key, Statistic | None]], split: str) -> Iterator[Row]:
    base = of.get(group._replace(channel=_NONE))
    if base is None:
        return
    for name in (_NONE, _AH):
        other = of.get(group._replace(channel=name))
        for key, loss in of[group].items():
            if other is not None and key[0] == POOLED:
                gains = [_minus([base.get(key), of_channel]) for of_channel in (loss, other.get(key))]
                yield _difference(SMALL, group, name, key, split, gains, above_zero)


def _pairs(
    losses: Losses, channel: str, against: str
) -> Iterator[tuple[Group, str, str, list[Statistic | None]]]:
    """The gains of two channels over `none` in every condition that has both on all verticals."""
    groups, everywhere = losses.groups(), set(losses.verticals)
    for group, cells in groups.items():
        others = groups.get(group._replace(channel=against), {})
        if group.channel != channel or set(cells) != everywhere or set(others) != everywhere:
            continue
        for task in losses.tasks(cells):
            for kind in MEASURES:
                yield group, task, kind, [losses.gain(of, task, kind) for of in (cells, others)]


def _difference(
    bar: str,
    group: Group,
    against: str,
    key: Key,
    split: str,
    gains: Sequence[Statistic | None],
    judge: Verdict,
    times: float = 1,
) -> Row:
    """The row of a first gain less so many times a second one."""
    between = _minus(gains, times)
    found = None if between is None else estimate(between)
    top, bottom = (None if gain is None else gain.value for gain in gains)
    return bar_row(
        bar, group, against, key, split, found, (top, bottom), judge(found) if found else UNDEFINED
    )


def _minus(both: Sequence[Statistic | None], times: float = 1) -> Statistic | None:
    first, second = both
    return None if first is None or second is None else combine([(1.0, first), (-float(times), second)])
