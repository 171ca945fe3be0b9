"""Who and what exists in the simulated world: users, items, surfaces, and how they drift from day to day.

Every random number comes from a stream of its own, named by what it is for (and the day): changing one setting leaves
unrelated draws as they were, and no result depends on how rows are cut into pieces.

Shape letters: U users, I items, S surfaces, C topics, D latent width, M recurring topics of a user, A authors.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from distill.sources.config import SimulatorConfig

# Author and topic explain this share of an item's latent vector and quality; the rest is the item's own.
TOPIC_SHARE, AUTHOR_SHARE = 0.4, 0.3
# Items per author.
AUTHOR_ITEMS = 5
# Share of the drift of popularity that the items of a topic have in common.
TREND_SHARE = 0.2


def stream(config: SimulatorConfig, name: str, day: int = 0) -> np.random.Generator:
    """The random stream of one thing on one day.

    Args:
        config: holds the seed.
        name: what is drawn.
        day: day number; history days are 0 and below.
    """
    return np.random.Generator(np.random.PCG64([config.seed, zlib.crc32(name.encode()), day + (1 << 20)]))


@dataclass
class Users:
    """The users; index = user_id.

    Attributes:
        activity: float64 [U], relative number of sessions.
        joined: int64 [U], first day on which the user may appear.
        habit: float64 [U, S], relative use of the surfaces.
        taste: float64 [U, D], drifts daily.
        preference: float32 [U, C], liking of topics; it stays.
        cycle: int16 [U, M], topics that recur, in the user's own order.
        phase: float64 [U], in [0, M): where in the cycle the user is on day 0, in phases.
        bias: float64 [U, 2], tendency to click, to convert.
    """

    activity: np.ndarray
    joined: np.ndarray
    habit: np.ndarray
    taste: np.ndarray
    preference: np.ndarray
    cycle: np.ndarray
    phase: np.ndarray
    bias: np.ndarray


@dataclass
class Items:
    """Items lie sorted by topic; `public_id` is what the data set shows, so that ids tell nothing.

    Attributes:
        public_id: int64 [I], a permutation of 0 .. I-1.
        topic: int64 [I], ascending.
        topic_start: int64 [C + 1], items of topic c lie at topic_start[c]:topic_start[c + 1].
        author: int64 [I], in [0, A).
        born, retired: int64 [I], first and last day with exposures.
        latent: float64 [I, D].
        quality: float64 [I, S, 2], appeal per surface to click, to convert.
        popularity: float64 [I], log weight among exposures; drifts daily.
        surface_popularity: float64 [I, S], standard normal; what a surface adds to it.
        duration: float64 [I], standardised log duration; long items convert less.
    """

    public_id: np.ndarray
    topic: np.ndarray
    topic_start: np.ndarray
    author: np.ndarray
    born: np.ndarray
    retired: np.ndarray
    latent: np.ndarray
    quality: np.ndarray
    popularity: np.ndarray
    surface_popularity: np.ndarray
    duration: np.ndarray


@dataclass
class Surfaces:
    """The surfaces; index = domain.

    Attributes:
        projected: float64 [2, S, I, D], every item's latent as a surface sees it, for clicks and conversions.
        intercept: float64 [S, 2], set by calibration.
        walk: float64 [days + 1, S, 2], drift of the base logits; row 0 serves the history.
    """

    projected: np.ndarray
    intercept: np.ndarray
    walk: np.ndarray


@dataclass
class World:
    """The state of everything on one day.

    Attributes:
        config: the settings.
        day: the state's day.
        users, items, surfaces: see there.
    """

    config: SimulatorConfig
    day: int
    users: Users
    items: Items
    surfaces: Surfaces

    def step(self) -> None:
        """Move to the next day: tastes and popularities take a step."""
        config = self.config
        self.day += 1
        keep = np.sqrt(1.0 - config.taste_drift**2)
        noise = stream(config, "taste drift", self.day).standard_normal(self.users.taste.shape)
        self.users.taste *= keep
        self.users.taste += config.taste_drift * noise
        self._step_popularity()

    def _step_popularity(self) -> None:
        """Popularities move alone and with their topic; their spread stays what it is."""
        config, items = self.config, self.items
        alone = stream(config, "popularity drift", self.day).standard_normal(config.items)
        trend = stream(config, "topic trend", self.day).standard_normal(config.topics)
        step = np.sqrt(1.0 - TREND_SHARE) * alone + np.sqrt(TREND_SHARE) * trend[items.topic]
        items.popularity *= np.sqrt(1.0 - config.popularity_drift**2)
        items.popularity += config.popularity_drift * config.popularity_spread * step


def build_world(config: SimulatorConfig) -> World:
    """The world on the first day of the history (day 1 without history), intercepts still 0.

    Args:
        config: checked settings.
    """
    users = _users(config)
    items = _items(config)
    return World(config, 1 - config.history_days, users, items, _surfaces(config, items))


def _users(config: SimulatorConfig) -> Users:
    n, topics = config.users, config.topics
    activity = np.exp(config.activity_spread * stream(config, "activity").standard_normal(n))
    preference = stream(config, "preference").standard_normal((n, topics), dtype=np.float32)
    # What recurs is mostly, not only, what the user likes.
    appeal = preference + stream(config, "appeal").standard_normal((n, topics), dtype=np.float32)
    chosen = np.argsort(-appeal, axis=1)[:, : config.interests].astype(np.int16)
    order = np.argsort(stream(config, "cycle").random(chosen.shape), axis=1)
    return Users(
        activity=activity,
        joined=_joined(config),
        habit=_habit(config, activity),
        taste=stream(config, "taste").standard_normal((n, config.latent_width)),
        preference=preference,
        cycle=np.take_along_axis(chosen, order, axis=1),
        phase=config.interests * stream(config, "phase").random(n),
        bias=config.user_spread * stream(config, "user bias").standard_normal((n, 2)),
    )


def _joined(config: SimulatorConfig) -> np.ndarray:
    """Most users were there before the history; a share arrives during the log, on day 2 or later."""
    rng = stream(config, "joined")
    new = rng.random(config.users) < config.new_users
    new[0] = False  # the first day needs a user
    day = 2 + np.floor(rng.random(config.users) * (config.days - 1)).astype(np.int64)
    return np.where(new, day, 1 - config.history_days)


def _habit(config: SimulatorConfig, activity: np.ndarray) -> np.ndarray:
    """Relative use of the surfaces per user, scaled so that all users together give `surface_shares`."""
    shares = np.asarray(config.surface_shares) / np.sum(config.surface_shares)
    habit = stream(config, "habit").gamma(
        np.asarray(config.surface_regularity), size=(config.users, len(shares))
    )
    habit = (habit + 1e-9) * shares / np.asarray(config.surface_regularity)
    for _ in range(30):
        habit /= habit.sum(axis=1, keepdims=True)
        habit *= shares / np.maximum((activity @ habit) / activity.sum(), 1e-12)
    return habit / habit.sum(axis=1, keepdims=True)


def _items(config: SimulatorConfig) -> Items:
    n, topics, surfaces = config.items, config.topics, len(config.surfaces)
    weight = np.exp(0.5 * stream(config, "topic size").standard_normal(topics))
    edges = np.cumsum(weight) / weight.sum()
    topic = np.sort(np.searchsorted(edges[:-1], stream(config, "topic").random(n), side="right"))
    topic_start = np.searchsorted(topic, np.arange(topics + 1))
    author, n_authors = _authors(config, topic_start), author_count(config)
    born, retired = _lives(config)
    popularity = config.popularity_spread * stream(config, "popularity").standard_normal(n)
    quality = _mixed(config, "quality", topic, author, n_authors, 2)[:, None, :]
    own = stream(config, "surface quality").standard_normal((n, surfaces, 2))
    different = config.surface_difference
    return Items(
        public_id=stream(config, "public id").permutation(n),
        topic=topic,
        topic_start=topic_start,
        author=author,
        born=born,
        retired=retired,
        latent=_mixed(config, "latent", topic, author, n_authors, config.latent_width),
        quality=config.quality_spread * (np.sqrt(1 - different**2) * quality + different * own),
        popularity=popularity,
        surface_popularity=stream(config, "surface popularity").standard_normal((n, surfaces)),
        duration=stream(config, "duration").standard_normal(n),
    )


def author_count(config: SimulatorConfig) -> int:
    """A: enough for every topic to have authors of its own."""
    return config.items // AUTHOR_ITEMS + config.topics


def _authors(config: SimulatorConfig, topic_start: np.ndarray) -> np.ndarray:
    """Every topic has its own authors; author sizes are skewed."""
    counts = np.diff(topic_start)
    per_topic = np.maximum(counts // AUTHOR_ITEMS, 1)
    first = np.concatenate([[0], np.cumsum(per_topic)])
    topic = np.repeat(np.arange(len(counts)), counts)
    skewed = stream(config, "author").random(config.items) ** 2
    return first[topic] + np.floor(skewed * per_topic[topic]).astype(np.int64)


def _lives(config: SimulatorConfig) -> tuple[np.ndarray, np.ndarray]:
    """First and last day of every item; evergreen items live throughout."""
    first, last = 1 - config.history_days, config.days
    rng = stream(config, "lives")
    evergreen = rng.random(config.items) < config.evergreen
    evergreen[0] = True  # every day needs an item
    life = np.ceil(rng.exponential(config.item_life_days, config.items)).astype(np.int64)
    start = first - config.item_life_days
    born = np.floor(start + rng.random(config.items) * (last + 1 - start)).astype(np.int64)
    born = np.where(evergreen, first - life, born)
    return born, np.where(evergreen, last, np.maximum(born + life - 1, first))


def _mixed(
    config: SimulatorConfig, name: str, topic: np.ndarray, author: np.ndarray, n_authors: int, width: int
) -> np.ndarray:
    """Unit-variance values [I, width] shared in part by items of one topic and of one author."""
    of_topic = stream(config, f"{name} of topic").standard_normal((config.topics, width))
    of_author = stream(config, f"{name} of author").standard_normal((n_authors, width))
    own = stream(config, f"{name} of item").standard_normal((config.items, width))
    rest = 1.0 - TOPIC_SHARE - AUTHOR_SHARE
    return (
        np.sqrt(TOPIC_SHARE) * of_topic[topic]
        + np.sqrt(AUTHOR_SHARE) * of_author[author]
        + np.sqrt(rest) * own
    )


def _surfaces(config: SimulatorConfig, items: Items) -> Surfaces:
    n, width = len(config.surfaces), config.latent_width
    different = config.surface_difference
    rng = stream(config, "surface projection")
    # Conversions see the same latents through a second set of projections.
    turn = rng.standard_normal((2, n, width, width)) / np.sqrt(width)
    projection = np.sqrt(1 - different**2) * np.eye(width) + different * turn
    projected = np.einsum("ksde,ie->ksid", projection, items.latent) / np.sqrt(width)
    drift = np.asarray(config.rate_drift)[:, None]
    steps = drift * stream(config, "rate drift").standard_normal((config.days, n, 2))
    walk = np.cumsum(steps, axis=0)
    walk -= walk.mean(axis=0)
    return Surfaces(projected, np.zeros((n, 2)), np.concatenate([np.zeros((1, n, 2)), walk]))
