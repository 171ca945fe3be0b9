"""Ranges of the simulator's settings. Free of torch."""

from __future__ import annotations

import datetime
import re
from typing import TYPE_CHECKING, Any

from distill.errors import UserError

if TYPE_CHECKING:
    from distill.sources.config import SimulatorConfig

LARGEST_SEED = 2**32 - 1
# Least and greatest allowed value, both included.
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, LARGEST_SEED),
    "days": (1, 3650),
    "rows_per_day": (1, 100_000_000),
    "users": (1, 1_000_000_000),
    "items": (1, 100_000_000),
    "surface_difference": (0, 1),
    "history_events": (0, 100_000),
    "history_days": (0, 3650),
    "session_rows": (1, 20),
    "gap_seconds": (0, 300),
    "same_screen": (0, 1),
    "latent_width": (1, 1024),
    "topics": (1, 1000),
    "interests": (1, 1000),
    "phase_days": (0.01, 3650),
    "intent_share": (0, 1),
    "taste_strength": (0, 5),
    "preference_strength": (0, 5),
    "intent_strength": (0, 5),
    "quality_spread": (0, 5),
    "user_spread": (0, 5),
    "conversion_scale": (0, 5),
    "activity_spread": (0, 5),
    "popularity_spread": (0, 5),
    "taste_drift": (0, 1),
    "popularity_drift": (0, 1),
    "volume_spread": (0, 2),
    "new_users": (0, 1),
    "evergreen": (0, 1),
    "item_life_days": (1, 3650),
    "attribute_noise": (0, 100),
    "missing": (0, 1),
    "content_width": (0, 4096),
    "content_noise": (0, 100),
    "window_hours": (0.01, 8760),
    "delay_hours": (0.01, 8760),
}
# Lists with one value per surface.
SURFACE_RANGES: dict[str, tuple[float, float]] = {
    "surface_shares": (1e-6, 1e6),
    "click_rates": (0.001, 0.999),
    "conversion_rates": (0.001, 0.999),
    "surface_regularity": (0.001, 1000),
    "rate_drift": (0, 1),
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]*")


def check_simulator(config: SimulatorConfig) -> None:
    """Every setting is in its range and they fit together.

    Args:
        config: settings of the simulator.

    Raises:
        UserError: names every setting that is wrong, with what was got and what is allowed.
    """
    problems = [
        *(_range(name, getattr(config, name), low, high) for name, (low, high) in RANGES.items()),
        *_surfaces(config),
        *_together(config),
    ]
    found = [problem for problem in problems if problem]
    if found:
        raise UserError("; ".join(found))


def _range(name: str, value: Any, low: float, high: float) -> str:
    # NaN is in no range.
    return "" if low <= value <= high else f"{name}: got {value}, allowed: {low} to {high}"


def _surfaces(config: SimulatorConfig) -> list[str]:
    names = list(config.surfaces)
    allowed = "at least one name of letters, digits and _ + -, each once"
    good = names and len(set(names)) == len(names) and all(_NAME.fullmatch(str(name)) for name in names)
    problems = [] if good else [f"surfaces: got {names}, allowed: {allowed}"]
    for field, (low, high) in SURFACE_RANGES.items():
        values = list(getattr(config, field))
        if len(values) != len(names):
            problems.append(
                f"{field}: got {len(values)} values, allowed: one for each of {len(names)} surfaces"
            )
        problems += [_range(f"{field}[{i}]", value, low, high) for i, value in enumerate(values)]
    return problems


def _together(config: SimulatorConfig) -> list[str]:
    problems = []
    if config.interests > config.topics:
        problems.append(f"interests: got {config.interests}, allowed: at most topics, {config.topics}")
    if config.history_events > 0 and config.history_days == 0:
        problems.append("history_days: got 0, allowed: at least 1 while history_events is above 0")
    try:
        datetime.date.fromisoformat(config.start_date)
    except ValueError:
        problems.append(f"start_date: got '{config.start_date}', allowed: a date such as 2026-01-01")
    return problems
