"""How a model looks in every picture: the same channel has the same colour in every report."""

from __future__ import annotations

from experiments.recorded import NONE, STUDENT
from experiments.summary import CHANNELS, Entry

COLOURS = 7
"""Colours of style.css that people with any colour vision tell apart; more channels than that are dashed."""

_ORDER = ("ah", "single", "all", "repr", "sharing", "ah_adapter", "pfd", "fitnets", "current", "rawid")
assert set(_ORDER) == set(CHANNELS)


def style(role: str, channel: str, channels: list[str]) -> str:
    """CSS classes of a model's marks.

    Args:
        role: `student`, `teacher` or another.
        channel: its channel set.
        channels: all channel sets of the run, in order; places those that the protocol does not name.
    """
    if role != STUDENT:
        return role
    if channel == NONE:
        return "none"
    own = [name for name in channels if name not in (*_ORDER, NONE)]
    place = (*_ORDER, *own).index(channel)
    return f"c{place % COLOURS}" + (" dashed" if place >= COLOURS else "")


def style_of(entry: Entry, channels: list[str]) -> str:
    """`style` of an entry."""
    return style(entry.role, entry.channel, channels)
