"""Small checks that `distill.validate` is made of: each looks at one value and reports. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distill.errors import nearest
from distill.findings import Findings, show
from distill.registry import Registry
from distill.strict_yaml import KeyPath
from distill.structured import build, checked, to_plain

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]*")


def check_name(name: str, path: KeyPath, findings: Findings) -> None:
    """A name that may stand in tables, file names and `--set`: no dots, no blanks."""
    if not _NAME.fullmatch(name):
        findings.add(path, show(name), "letters, digits and _ + -, a letter or digit first")


def check_at_least(value: float, least: float, path: KeyPath, findings: Findings) -> None:
    """A number that must not be smaller than `least`."""
    if value < least:
        findings.add(path, str(value), f"at least {least}")


def check_positive(value: float, path: KeyPath, findings: Findings) -> None:
    """A number above 0."""
    if value <= 0:
        findings.add(path, str(value), "a number above 0")


def check_unique(values: Sequence[Any], path: KeyPath, findings: Findings, below: KeyPath = ()) -> None:
    """No value twice.

    Args:
        values: of a list.
        path: the list's place.
        findings: gets one problem per repetition, at its index.
        below: keys from an element to the value, such as ("name",).
    """
    for index, value in enumerate(values):
        if value in values[:index]:
            findings.add((*path, index, *below), f"{show(value)} a second time", "every value once")


def check_known(
    values: Sequence[str] | Mapping[str, Any], names: Iterable[str], path: KeyPath, findings: Findings
) -> None:
    """Every value of a list, or every key of a mapping, is one of the names."""
    names = list(names)
    for index, value in enumerate(values):
        if value not in names:
            place = value if isinstance(values, Mapping) else index
            allowed = ", ".join(names) or "nothing, there are none"
            findings.add((*path, place), show(value), allowed, nearest(value, names))


def check_options(
    registry: Registry,
    name: str,
    options: dict[str, Any],
    paths: tuple[KeyPath, KeyPath],
    findings: Findings,
    others: Sequence[str] = (),
) -> dict[str, Any]:
    """A registered name and its settings.

    Args:
        registry: of the names.
        name: what the config asks for.
        options: its settings as written.
        paths: places of the name and of the settings.
        findings: gets the problems.
        others: what may stand instead of a registered name, for the message.

    Returns:
        The settings with the defaults filled in; as written when there is a problem.
    """
    if name not in registry:
        findings.add(paths[0], show(name), ", ".join([*registry, *others]), nearest(name, registry))
        return options
    config_class = registry.get(name).config
    kept = checked(options, config_class, paths[1], findings)
    if findings.touches(paths[1]):
        return options
    try:
        return to_plain(build(config_class, kept))
    except ValueError as error:  # the class judges its own values
        findings.add_message(paths[1], str(error))
        return options
