"""The plain form of a YAML file (mappings, lists, names) checked piece by piece; what is wrong is named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from distill.errors import DataError, nearest


def is_count(value: Any) -> bool:
    """An integer from 0 that fits 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def as_list(value: Any, source: str, where: str) -> list[Any]:
    """The value, a list; DataError for anything else."""
    if not isinstance(value, list):
        raise DataError(f"{source}: {where}: got {value!r}, allowed: a list")
    return value


def as_names(value: Any, source: str, where: str) -> tuple[str, ...]:
    """A list of names, numbers among them as texts; DataError for anything else."""
    for name in as_list(value, source, where):
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise DataError(f"{source}: {where}: got {name!r}, allowed: names")
    return tuple(str(name) for name in value)


def as_settings(value: Any, source: str, where: str) -> dict[str, Any]:
    """A mapping of at least one name to its settings, which are not looked at; DataError for anything else."""
    if not isinstance(value, Mapping) or not value:
        raise DataError(
            f"{source}: {where}: got {value!r}, allowed: a mapping of at least one name to its settings"
        )
    return {str(name): settings for name, settings in value.items()}


def as_mapping(
    value: Any, source: str, where: str, keys: Iterable[str], required: Iterable[str] = ()
) -> dict[str, Any]:
    """A mapping of known keys.

    Args:
        value: what stands in the file.
        source: the file, for messages.
        where: the place in it, for messages.
        keys: that may stand there.
        required: those that must.

    Raises:
        DataError: no mapping, an unknown key, a missing one.
    """
    keys = tuple(keys)
    if not isinstance(value, Mapping):
        raise DataError(f"{source}: {where}: got {value!r}, allowed: a mapping with keys {', '.join(keys)}")
    for key in value:
        if key not in keys:
            raise DataError(
                f"{source}: {where}: unknown key '{key}', allowed: {', '.join(keys)}. {nearest(key, keys)}"
            )
    for key in required:
        if key not in value:
            raise DataError(f"{source}: {where}: key '{key}' is missing")
    return dict(value)
