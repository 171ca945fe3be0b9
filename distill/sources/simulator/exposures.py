"""Who is shown what, where and when on one day.

A day is a number of sessions; a session is a few rows of one user on one surface within minutes. What is shown comes
from the user's current topics or from what is popular on the surface.

Shape letters: N rows of a day, n sessions.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from distill.sources.config import SimulatorConfig
from distill.sources.simulator.world import World, stream

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
MAX_SESSION = 20
# Share of the day's sessions by hour, as on a short-video platform: a trough at night, a peak in the evening.
HOURS = (36, 23, 15, 9, 8, 10, 17, 26, 34, 40, 46, 52, 59, 56, 51, 53, 56, 60, 56, 55, 56, 61, 64, 57)
# Topics of the cycle that are active in one phase.
ACTIVE_TOPICS = 2


@dataclass(frozen=True)
class Exposures:
    """N rows, sorted by time.

    Attributes:
        user: int64 [N].
        surface: int64 [N].
        item: int64 [N], internal index (`Items.public_id` gives the shown id).
        timestamp: int64 [N] ms.
        position: int64 [N], place in the session, from 0.
        intended: bool [N], the item's topic is one of the user's active topics.
    """

    user: np.ndarray
    surface: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray
    position: np.ndarray
    intended: np.ndarray

    def part(self, rows: slice) -> Exposures:
        """Some of the rows."""
        return Exposures(*(getattr(self, field.name)[rows] for field in fields(self)))


def day_sizes(config: SimulatorConfig, total: int, days: int, name: str, least: int) -> np.ndarray:
    """Rows of every day; they add up to `total` and vary by `volume_spread`.

    Args:
        config: settings.
        total: rows of all days.
        days: number of days.
        name: the stream's name.
        least: rows of any day.
    """
    weight = np.exp(config.volume_spread * stream(config, name).standard_normal(days))
    share = np.cumsum(weight) / weight.sum()
    share[-1:] = 1.0
    return least + np.diff(np.floor(share * (total - least * days)).astype(np.int64), prepend=0)


def active_topics(world: World, user: np.ndarray) -> np.ndarray:
    """Topics that each user is after today.

    Args:
        world: the day's state.
        user: int64 [N].

    Returns:
        int64 [N, active topics].
    """
    config, users = world.config, world.users
    phase = np.floor(users.phase[user] + world.day / config.phase_days).astype(np.int64)
    width = min(ACTIVE_TOPICS, config.interests)
    place = (phase[:, None] * width + np.arange(width)) % config.interests
    return users.cycle[user[:, None], place].astype(np.int64)


def sample_day(world: World, rows: int) -> Exposures:
    """The exposures of the world's day.

    Args:
        world: the day's state.
        rows: N.
    """
    config = world.config
    lengths = _session_lengths(config, world.day, rows)
    rng = stream(config, "sessions", world.day)
    user = draw_index(_reachable(world), rng.random(len(lengths)))
    habit = np.cumsum(world.users.habit[user], axis=1)
    surface = (rng.random(len(lengths))[:, None] >= habit[:, :-1]).sum(axis=1)
    session = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(rows) - (np.cumsum(lengths) - lengths)[session]
    timestamp = _times(world, lengths, session, position)
    item, intended = sample_items(world, user[session], surface[session], session)
    order = np.argsort(timestamp, kind="stable")
    return Exposures(
        user[session][order],
        surface[session][order],
        item[order],
        timestamp[order],
        position[order],
        intended[order],
    )


def sample_items(
    world: World, user: np.ndarray, surface: np.ndarray, session: np.ndarray, name: str = "items"
) -> tuple[np.ndarray, np.ndarray]:
    """What is shown: of an active topic of the user, or popular on the surface; alive today in any case.

    Args:
        world: the day's state.
        user, surface, session: int64 [N].
        name: the stream's name.

    Returns:
        Item (internal index) and whether its topic is active for the user, both [N].
    """
    config, items = world.config, world.items
    rng = stream(config, name, world.day)
    weight = np.exp(
        items.popularity[:, None]
        + config.surface_difference * config.popularity_spread * items.surface_popularity
    )
    weight *= ((items.born <= world.day) & (world.day <= items.retired))[:, None]
    edges = np.concatenate([[0.0], np.cumsum(weight.T.ravel())])
    topics = active_topics(world, user)
    # One intent per session; every row follows it or not.
    intent = topics[
        np.arange(len(user)), np.floor(rng.random(len(user)) * topics.shape[1]).astype(np.int64)[session]
    ]
    base = surface * config.items
    low, high = edges[base], edges[base + config.items]
    low_topic, high_topic = (
        edges[base + items.topic_start[intent]],
        edges[base + items.topic_start[intent + 1]],
    )
    follows = (rng.random(len(user)) < config.intent_share) & (high_topic > low_topic)
    low, high = np.where(follows, low_topic, low), np.where(follows, high_topic, high)
    point = np.minimum(low + rng.random(len(user)) * (high - low), np.nextafter(high, -np.inf))
    item = np.searchsorted(edges, point, side="right") - 1 - base
    return item, (items.topic[item][:, None] == topics).any(axis=1)


def _session_lengths(config: SimulatorConfig, day: int, rows: int) -> np.ndarray:
    lengths = np.minimum(
        stream(config, "lengths", day).geometric(1.0 / config.session_rows, rows), MAX_SESSION
    )
    ends = np.cumsum(lengths)
    n = int(np.searchsorted(ends, rows)) + 1
    lengths = lengths[:n]
    lengths[-1] -= ends[n - 1] - rows
    return lengths


def _reachable(world: World) -> np.ndarray:
    return np.cumsum(world.users.activity * (world.users.joined <= world.day))


def draw_index(edges: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Index drawn in proportion to the increments of `edges`."""
    point = np.minimum(uniform * edges[-1], np.nextafter(edges[-1], 0))
    return np.searchsorted(edges, point, side="right")


def _times(world: World, lengths: np.ndarray, session: np.ndarray, position: np.ndarray) -> np.ndarray:
    config = world.config
    rng = stream(config, "times", world.day)
    hour = draw_index(np.cumsum(np.asarray(HOURS, float)), rng.random(len(lengths)))
    start = (hour + rng.random(len(lengths))) * HOUR_MS
    gap = rng.exponential(1000.0 * config.gap_seconds, len(session))
    # Some rows come on one screen, with one time.
    gap *= (position > 0) & (rng.random(len(session)) >= config.same_screen)
    elapsed = np.cumsum(gap)
    elapsed -= elapsed[np.cumsum(lengths) - lengths][session]
    length = elapsed[np.cumsum(lengths) - 1]
    start = np.clip(start, 0, DAY_MS - 1 - length)  # a session ends within its day
    return day_start_ms(config, world.day) + np.floor(start[session] + elapsed).astype(np.int64)


def day_start_ms(config: SimulatorConfig, day: int) -> int:
    """First millisecond (UTC) of a day; days before the log are 0 and below."""
    return int(np.datetime64(config.start_date, "ms").astype(np.int64)) + (day - 1) * DAY_MS
