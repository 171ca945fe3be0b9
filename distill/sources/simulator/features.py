"""What is observed of the world: noisy, coarse, partly missing attributes. Nothing here knows an outcome.

Id 0 of an attribute means "missing"; user_id, item_id and the context features are never missing.

Shape letters: N rows, U users, I items, D latent width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from distill.schema import Content, DayInfo, FeatureSchema, SparseFeature, Task
from distill.sources.config import SimulatorConfig
from distill.sources.simulator.content import MODALITY
from distill.sources.simulator.exposures import DAY_MS, HOUR_MS, Exposures, day_start_ms
from distill.sources.simulator.world import World, author_count, stream

# Coarse user attributes: name to number of levels.
USER_LEVELS = {"age_band": 8, "region": 12, "device": 6, "segment": 30}
ACTIVITY_LEVELS = 6
TAGS_PER_TOPIC = 4
MAX_TAGS = 4
MAX_POSITION = 8
DURATION_LEVELS = 10
DENSE = ("log_duration", "log_item_age", "item_popularity", "quality_score", "user_tenure")


@dataclass(frozen=True)
class Attributes:
    """Observed attributes of users and items; they do not change during the log.

    Attributes:
        user: name to int64 [U].
        item: name to int64 [I].
        tags: list<int64> array of length I.
        dense_user: name to float64 [U].
        dense_item: name to float64 [I].
    """

    user: dict[str, np.ndarray]
    item: dict[str, np.ndarray]
    tags: pa.ListArray
    dense_user: dict[str, np.ndarray]
    dense_item: dict[str, np.ndarray]


def observe(world: World) -> Attributes:
    """The attributes as seen when the log begins; they stay, whatever drifts. Older users are the more active ones.

    Args:
        world: the state of that day.
    """
    return Attributes(
        user=_user_attributes(world),
        item=_item_attributes(world),
        tags=_tags(world),
        dense_user={
            "user_tenure": _noisy_dense(world, "user_tenure", _standardised(np.log(world.users.activity)))
        },
        dense_item={
            "log_duration": _dense_missing(world, "log_duration", world.items.duration),
            "item_popularity": _noisy_dense(world, "item_popularity", _standardised(world.items.popularity)),
            "quality_score": _noisy_dense(
                world, "quality_score", _standardised(world.items.quality[:, :, 0].mean(1))
            ),
        },
    )


def feature_schema(config: SimulatorConfig) -> FeatureSchema:
    """The data set's schema.

    Args:
        config: settings.
    """
    sizes = {"user_id": config.users} | {name: n + 1 for name, n in USER_LEVELS.items()}
    sizes["declared_interest"] = config.topics + 1
    sizes["activity_level"] = ACTIVITY_LEVELS + 1
    sparse = [SparseFeature(name, size, "user") for name, size in sizes.items()]
    sparse += [
        SparseFeature("item_id", config.items, "item"),
        SparseFeature("category", config.topics + 1, "item"),
        SparseFeature("author_id", author_count(config) + 1, "item"),
        SparseFeature("tags", config.topics * TAGS_PER_TOPIC, "item", multi=True),
        SparseFeature("duration_level", DURATION_LEVELS + 1, "item"),
        SparseFeature("surface", len(config.surfaces), "context"),
        SparseFeature("hour", 24, "context"),
        SparseFeature("position", MAX_POSITION, "context"),
    ]
    date = np.datetime64(config.start_date, "D")
    return FeatureSchema(
        name="simulator",
        domains=tuple(config.surfaces),
        verticals=tuple(config.surfaces),
        days=tuple(
            DayInfo(str(date + day - 1), day_start_ms(config, day + 1)) for day in range(1, config.days + 1)
        ),
        tasks={
            "click": Task("click", 0),
            "conversion": Task("conversion", int(config.window_hours * HOUR_MS)),
        },
        sparse={feature.name: feature for feature in sparse},
        dense=DENSE,
        item_feature="item_id",
        content={MODALITY: Content(MODALITY, config.content_width)} if config.content_width else {},
    )


def feature_columns(
    world: World, attributes: Attributes, rows: Exposures
) -> dict[str, np.ndarray | pa.Array]:
    """Columns of every feature for N rows.

    Args:
        world: the day's state.
        attributes: of users and items.
        rows: the day's exposures.
    """
    # About centred: e^3 is some twenty days. Rounded as all dense features are.
    age = np.round(np.log1p(np.maximum(world.day - world.items.born, 0)) - 3.0, 4)
    columns: dict[str, np.ndarray | pa.Array] = {
        "user_id": rows.user,
        "item_id": world.items.public_id[rows.item],
    }
    columns |= {name: values[rows.user] for name, values in attributes.user.items()}
    columns |= {name: values[rows.item] for name, values in attributes.item.items()}
    columns["tags"] = attributes.tags.take(pa.array(rows.item))
    columns["surface"] = rows.surface
    columns["hour"] = rows.timestamp % DAY_MS // HOUR_MS
    columns["position"] = np.minimum(rows.position, MAX_POSITION - 1)
    dense = {name: values[rows.user] for name, values in attributes.dense_user.items()}
    dense |= {name: values[rows.item] for name, values in attributes.dense_item.items()}
    dense["log_item_age"] = age[rows.item]
    return columns | {name: dense[name].astype(np.float32) for name in DENSE}


def _standardised(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / max(float(values.std()), 1e-6)


def _missing(world: World, name: str, n: int) -> np.ndarray:
    return stream(world.config, f"missing {name}").random(n) < world.config.missing


def _noisy(world: World, name: str, values: np.ndarray) -> np.ndarray:
    noise = stream(world.config, f"observed {name}").standard_normal(len(values))
    return (values + world.config.attribute_noise * noise) / np.sqrt(1.0 + world.config.attribute_noise**2)


def _dense_missing(world: World, name: str, values: np.ndarray) -> np.ndarray:
    # Four digits: the stored float does not depend on the last bit of anybody's exp().
    return np.where(_missing(world, name, len(values)), 0.0, np.round(values, 4))


def _noisy_dense(world: World, name: str, values: np.ndarray) -> np.ndarray:
    return _dense_missing(world, name, _noisy(world, name, values))


def _levels(world: World, name: str, values: np.ndarray, levels: int) -> np.ndarray:
    """Standard normal values cut into levels 1 .. n of about equal width; 0 where missing."""
    level = 1 + np.clip(np.floor((values + 2.0) / 4.0 * levels), 0, levels - 1).astype(np.int64)
    return np.where(_missing(world, name, len(values)), 0, level)


def _user_attributes(world: World) -> dict[str, np.ndarray]:
    config, users = world.config, world.users
    result = {}
    for name, levels in USER_LEVELS.items():
        if name == "segment":
            continue
        direction = stream(config, f"direction {name}").standard_normal(config.latent_width)
        seen = users.taste @ (direction / np.linalg.norm(direction))
        result[name] = _levels(world, name, _noisy(world, name, seen), levels)
    result["segment"] = _segment(world)
    result["declared_interest"] = _declared_interest(world)
    active = _noisy(world, "activity_level", _standardised(np.log(users.activity)))
    result["activity_level"] = _levels(world, "activity_level", active, ACTIVITY_LEVELS)
    return result


def _segment(world: World) -> np.ndarray:
    """The nearest of a few centres to a noisy taste, as an advertiser's audience would be."""
    config = world.config
    n = USER_LEVELS["segment"]
    centre = stream(config, "segments").standard_normal((config.latent_width, n))
    noise = stream(config, "observed segment").standard_normal(world.users.taste.shape)
    seen = world.users.taste + config.attribute_noise * noise
    nearest = np.argmax(seen @ centre - 0.5 * (centre**2).sum(axis=0), axis=1)
    return np.where(_missing(world, "segment", config.users), 0, 1 + nearest)


def _declared_interest(world: World) -> np.ndarray:
    """The one topic a user once ticked: often, not always, one that is liked."""
    config, preference = world.config, world.users.preference
    noise = stream(config, "observed declared_interest").standard_normal(preference.shape)
    topic = np.argmax(preference + config.attribute_noise * noise, axis=1)
    return np.where(_missing(world, "declared_interest", config.users), 0, 1 + topic)


def _item_attributes(world: World) -> dict[str, np.ndarray]:
    config, items = world.config, world.items
    rng = stream(config, "category")
    # One in ten is filed under a wrong category.
    wrong = rng.random(config.items) < 0.1
    category = np.where(wrong, rng.integers(0, config.topics, config.items), items.topic)
    shuffled = stream(config, "author id").permutation(author_count(config))
    return {
        "category": np.where(_missing(world, "category", config.items), 0, 1 + category),
        "author_id": np.where(_missing(world, "author_id", config.items), 0, 1 + shuffled[items.author]),
        "duration_level": _levels(world, "duration_level", items.duration, DURATION_LEVELS),
    }


def _tags(world: World) -> pa.ListArray:
    """0 to 4 tags per item; three in four belong to the item's topic."""
    config, items = world.config, world.items
    rng = stream(config, "tags")
    count = rng.binomial(MAX_TAGS, 0.6, config.items)
    owner = np.repeat(np.arange(config.items), count)
    topic = np.where(
        rng.random(len(owner)) < 0.75, items.topic[owner], rng.integers(0, config.topics, len(owner))
    )
    tag = topic * TAGS_PER_TOPIC + rng.integers(0, TAGS_PER_TOPIC, len(owner))
    kept = np.unique(owner * (config.topics * TAGS_PER_TOPIC) + tag)
    owner, tag = np.divmod(kept, config.topics * TAGS_PER_TOPIC)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=config.items))])
    shuffled = stream(config, "tag id").permutation(config.topics * TAGS_PER_TOPIC)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(shuffled[tag], pa.int64()))
