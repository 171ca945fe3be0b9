"""Help from docstrings: what a dataclass says of its fields under `Attributes:`. Free of torch."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Union

from distill.structured import REQUIRED, to_plain, type_name

_WIDTH = 100
_ENTRY = re.compile(r"(\w+(?:, \w+)*)(?: \([^)]*\))?:\s*(.*)")


@dataclass(frozen=True)
class FieldHelp:
    """What a user is told about one field.

    Attributes:
        name: the key.
        kind: its type in words.
        default: as YAML would say it; empty when the key is required or is a section of its own.
        text: what the docstring says.
        section: the dataclass of a nested section, else None.
    """

    name: str
    kind: str
    default: str
    text: str
    section: type | None


def attribute_texts(config_class: type) -> dict[str, str]:
    """The `Attributes:` section of a class and its bases.

    Args:
        config_class: a documented class. An entry is `name: text`, or `one, two: text` for several; its
            further lines are indented deeper than its name.

    Returns:
        Field to text, on one line.
    """
    texts: dict[str, str] = {}
    for base in reversed(config_class.__mro__):
        texts |= _parse(inspect.cleandoc(base.__dict__.get("__doc__") or ""))
    return texts


def field_help(config_class: type) -> list[FieldHelp]:
    """Help on every field of a dataclass, in order.

    Args:
        config_class: the dataclass.
    """
    texts, hints = attribute_texts(config_class), typing.get_type_hints(config_class)
    helps = []
    for field in dataclasses.fields(config_class):
        annotation = hints[field.name]
        section = _section(annotation)
        default = "" if section else _default(field)
        helps.append(
            FieldHelp(field.name, type_name(annotation), default, texts.get(field.name, ""), section)
        )
    return helps


def describe(config_class: type, indent: int = 2) -> str:
    """Help on every field as text, nested sections indented below theirs.

    Args:
        config_class: the dataclass.
        indent: columns before the names.
    """
    return "\n".join(_lines(config_class, indent))


def _lines(config_class: type, indent: int) -> Iterator[str]:
    margin = " " * indent
    for help_ in field_help(config_class):
        kind = "" if help_.section else f" ({help_.kind}{f'; {help_.default}' if help_.default else ''})"
        first, further = f"{margin}{help_.name}{kind}: ", f"{margin}    "
        yield from textwrap.wrap(help_.text, _WIDTH, initial_indent=first, subsequent_indent=further) or [
            first
        ]
        if help_.section:
            yield from _lines(help_.section, indent + 4)


def _section(annotation: Any) -> type | None:
    """The dataclass below a key: its type, one member of a union, or the elements of a list."""
    if dataclasses.is_dataclass(annotation):
        return typing.cast(type, annotation)
    if typing.get_origin(annotation) in (Union, types.UnionType, list):
        return next(filter(None, map(_section, typing.get_args(annotation))), None)
    return None


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return "required" if field.default == REQUIRED else _yaml(to_plain(field.default))
    if field.default_factory is not dataclasses.MISSING:
        return _yaml(to_plain(field.default_factory()))
    return "required"


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(_yaml(item) for item in value)}]"
    return str(value)


def _parse(docstring: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in _section_lines(docstring):
        entry = _ENTRY.fullmatch(line) if not line.startswith(" ") else None
        if entry:
            names = entry[1].split(", ")
            texts |= dict.fromkeys(names, entry[2])
        else:
            texts |= {name: f"{texts[name]} {line.strip()}".strip() for name in names}
    return texts


def _section_lines(docstring: str) -> list[str]:
    """Lines of the `Attributes:` section, without its indentation, up to the next unindented line."""
    _, found, rest = f"\n{docstring}\n".partition("\nAttributes:\n")
    lines = []
    for line in rest.splitlines() if found else []:
        if line and not line.startswith(" "):
            break
        lines.append(line)
    return [line for line in textwrap.dedent("\n".join(lines)).splitlines() if line.strip()]
