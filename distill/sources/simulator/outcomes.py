"""What users do with what they are shown: true probabilities, labels, and when conversions become known.

Shape letters: N rows of a day.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from distill.sources.config import SimulatorConfig
from distill.sources.simulator.exposures import HOUR_MS, Exposures, draw_index, sample_items
from distill.sources.simulator.world import World, stream

CLICK, CONVERSION = 0, 1
POSITION_EFFECT = -0.1
DURATION_EFFECT = -0.4
# Rows per surface that find the intercepts.
PILOT = 20_000
# Rows whose latents are gathered at once; bounds memory, changes nothing else.
CHUNK = 1 << 17


@dataclass(frozen=True)
class Outcomes:
    """What happened to N rows.

    Attributes:
        p_click: float64 [N], true probability of a click.
        p_conversion: float64 [N], true probability of a click and a conversion.
        click, conversion: int8 [N], final labels.
        matures: int64 [N] ms, when the conversion label became known: at the conversion, at the window's end for a
            click without one, at once without a click.
    """

    p_click: np.ndarray
    p_conversion: np.ndarray
    click: np.ndarray
    conversion: np.ndarray
    matures: np.ndarray

    def part(self, rows: slice) -> Outcomes:
        """Some of the rows."""
        return Outcomes(*(getattr(self, field.name)[rows] for field in fields(self)))


def logits(world: World, rows: Exposures, chunk: int = CHUNK) -> np.ndarray:
    """True logits of a click and of a conversion given a click, without the surfaces' base.

    Args:
        world: the day's state.
        rows: N exposures of that day.
        chunk: rows computed at once.

    Returns:
        float64 [N, 2].
    """
    starts = range(0, len(rows.user), chunk)
    return np.concatenate([_logits(world, rows.part(slice(start, start + chunk))) for start in starts])


def _logits(world: World, rows: Exposures) -> np.ndarray:
    config, users, items = world.config, world.users, world.items
    user, item, surface = rows.user, rows.item, rows.surface
    taste = users.taste[user]
    liking = users.preference[user, items.topic[item]]
    result = users.bias[user] + items.quality[item, surface]
    for task, scale in ((CLICK, 1.0), (CONVERSION, config.conversion_scale)):
        affinity = (taste * world.surfaces.projected[task, surface, item]).sum(axis=1)
        result[:, task] += scale * (config.taste_strength * affinity + config.preference_strength * liking)
    result[:, CLICK] += config.intent_strength * rows.intended + POSITION_EFFECT * np.minimum(
        rows.position, 7
    )
    result[:, CONVERSION] += DURATION_EFFECT * items.duration[item]
    return result


def calibrate(world: World) -> None:
    """Set the surfaces' intercepts so that each has its click rate and its conversion rate given a click.

    Args:
        world: at its first day; only `surfaces.intercept` changes.
    """
    config = world.config
    n = len(config.surfaces)
    surface = np.repeat(np.arange(n), PILOT)
    rng = stream(config, "pilot")
    weight = world.users.activity * (world.users.joined <= world.day)
    user = np.concatenate(
        [draw_index(np.cumsum(weight * world.users.habit[:, s]), rng.random(PILOT)) for s in range(n)]
    )
    item, intended = sample_items(world, user, surface, np.arange(len(user)), "pilot items")
    position = np.minimum(rng.geometric(1.0 / config.session_rows, len(user)), 8) - 1
    z = logits(world, Exposures(user, surface, item, np.zeros_like(user), position, intended)).reshape(
        n, PILOT, 2
    )
    for s in range(n):
        click = _intercept(z[s, :, CLICK], config.click_rates[s], np.ones(PILOT))
        clicked = sigmoid(z[s, :, CLICK] + click)
        world.surfaces.intercept[s] = (
            click,
            _intercept(z[s, :, CONVERSION], config.conversion_rates[s], clicked),
        )


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)); |z| stays far from overflow here."""
    return 1.0 / (1.0 + np.exp(-z))


def _intercept(z: np.ndarray, rate: float, weight: np.ndarray) -> float:
    """Bisection for b with weighted mean of sigmoid(z + b) = rate."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        if np.average(sigmoid(z + middle), weights=weight) < rate:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def draw_outcomes(world: World, rows: Exposures, chunk: int = CHUNK) -> Outcomes:
    """True probabilities and what happened.

    Args:
        world: the day's state.
        rows: N exposures of that day.
        chunk: rows computed at once.
    """
    config, surfaces = world.config, world.surfaces
    base = surfaces.intercept + surfaces.walk[max(world.day, 0)]
    p = sigmoid(logits(world, rows, chunk) + base[rows.surface])
    rng = stream(config, "outcomes", world.day)
    click = rng.random(len(p)) < p[:, CLICK]
    conversion = click & (rng.random(len(p)) < p[:, CONVERSION])
    delay = _delay_ms(config, rng.random(len(p)))
    window = int(config.window_hours * HOUR_MS)
    wait = np.where(conversion, delay, np.where(click, window, 0))
    return Outcomes(
        p[:, CLICK],
        p[:, CLICK] * p[:, CONVERSION],
        click.astype(np.int8),
        conversion.astype(np.int8),
        rows.timestamp + wait,
    )


def _delay_ms(config: SimulatorConfig, uniform: np.ndarray) -> np.ndarray:
    """Exponential delay cut off at the window, by the inverse of its distribution; from 1 ms to the window."""
    within = -np.expm1(-config.window_hours / config.delay_hours)
    hours = -config.delay_hours * np.log1p(-uniform * within)
    return np.clip(np.ceil(hours * HOUR_MS).astype(np.int64), 1, int(config.window_hours * HOUR_MS))
