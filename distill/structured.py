"""Checks plain values against dataclasses: every unknown key and every wrong type is found. Free of torch.

OmegaConf stops at the first mistake; `checked` walks on, keeps what is right, and leaves the building of the
dataclasses (`build`) to OmegaConf.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Union

from omegaconf import OmegaConf

from distill.errors import nearest
from distill.findings import Findings, show
from distill.strict_yaml import Document, KeyPath

REQUIRED = "???"
"""Default of a field that a config must set (OmegaConf's word)."""


MAX_INT = (1 << 63) - 1


class _Invalid(enum.Enum):
    INVALID = "invalid"


INVALID: Final = _Invalid.INVALID
"""What `checked` gives for a value that it reported."""

_PLURALS = {str: "texts", int: "whole numbers", float: "finite numbers"}
_SCALARS: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    type(None): "null",
}


def checked(value: Any, annotation: Any, path: KeyPath, findings: Findings) -> Any:
    """Compare a plain value with a type; report what does not fit.

    Args:
        value: from YAML.
        annotation: str, int, float, bool, None, Any, Literal, an Enum, a dataclass, and list, tuple, dict and
            unions of these.
        path: where the value stands.
        findings: gets the problems.

    Returns:
        The value without what was reported, or INVALID when nothing of it is left. A list of dataclasses
        keeps its length: an element that is no mapping becomes one of placeholders.
    """
    origin = typing.get_origin(annotation)
    if dataclasses.is_dataclass(annotation):
        return _dataclass(value, typing.cast(type, annotation), path, findings)
    if origin in (Union, types.UnionType):
        return _union(value, typing.get_args(annotation), path, findings)
    if origin is Literal or (isinstance(annotation, type) and issubclass(annotation, enum.Enum)):
        return _choice(value, annotation, path, findings)
    if (origin or annotation) in (list, tuple):
        return _list(value, annotation, path, findings)
    if (origin or annotation) is dict:
        return _dict(value, annotation, path, findings)
    if annotation is Any:
        return _plain(value, path, findings)
    return _scalar(value, annotation, path, findings)


def build(config_class: type, content: Mapping[str, Any]) -> Any:
    """The dataclass of a content that `checked` left without problems, defaults filled in.

    Args:
        config_class: the dataclass.
        content: plain values.

    Raises:
        ValueError: the class refuses its values when it is constructed.
    """
    key = config_class, repr(content)
    if key not in _BUILT:
        _BUILT[key] = OmegaConf.to_object(OmegaConf.merge(config_class, dict(content)))
    return copy.deepcopy(_BUILT[key])


_BUILT: dict[tuple[type, str], Any] = {}
"""What was built, by class and content: OmegaConf takes its time, and a study's trainings have the same options."""


def to_plain(value: Any) -> Any:
    """Dataclasses, tuples and enums as the dicts, lists and scalars that YAML writes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = {}
        for field in dataclasses.fields(value):
            of_field = getattr(value, field.name)
            if not (field.metadata.get("omitted") and of_field == _default(field)):
                plain[field.name] = to_plain(of_field)
        return plain
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value.name if isinstance(value, enum.Enum) else value


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def type_name(annotation: Any) -> str:
    """A type in the words of messages and help."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(argument) for argument in arguments)
    if _choices(annotation):
        return ", ".join(str(choice) for choice in _choices(annotation))
    if (origin or annotation) in (list, tuple):
        return f"a list of {_PLURALS.get(arguments[0]) or 'mappings'}" if arguments else "a list"
    return "any value" if annotation is Any else "a mapping"


def _dataclass(value: Any, config_class: type, path: KeyPath, findings: Findings) -> Any:
    if not isinstance(value, dict):
        findings.add(path, show(value), f"a mapping with keys {', '.join(_fields(config_class))}")
        return INVALID
    fields, kept = _fields(config_class), {}
    hints = typing.get_type_hints(config_class)
    for key, item in value.items():
        if key not in fields:
            findings.add((*path, key), "an unknown key", ", ".join(fields) or "no key", nearest(key, fields))
            continue
        result = checked(item, hints[key], (*path, key), findings)
        if result is not INVALID:
            kept[key] = result
    for name, field in fields.items():
        if name not in value and _is_required(field):
            findings.add((*path, name), "nothing", type_name(hints[name]), "The key is required.")
    return _placeholders(config_class) | kept


def _placeholders(config_class: type) -> dict[str, str]:
    """Names that are missing: they are reported, but the rest can still be built and judged."""
    return {name: "unnamed" for name, field in _fields(config_class).items() if field.default == REQUIRED}


def _fields(config_class: type) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(config_class) if field.init}


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default == REQUIRED or (
        field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )


def _union(value: Any, members: tuple[Any, ...], path: KeyPath, findings: Findings) -> Any:
    if value is None and type(None) in members:
        return None
    members = tuple(member for member in members if member is not type(None))
    if len(members) == 1:
        return checked(value, members[0], path, findings)
    # Of several types the first that fits is taken; the problems of a single try are nobody's business.
    for member in members:
        attempt = Findings()
        attempt.place((), Document("", value, Path()))
        result = checked(value, member, path, attempt)
        if not attempt.touches(()):
            return result
    findings.add(path, show(value), " or ".join(type_name(member) for member in members))
    return INVALID


def _choices(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return tuple(annotation.__members__)
    return ()


def _choice(value: Any, annotation: Any, path: KeyPath, findings: Findings) -> Any:
    choices = _choices(annotation)
    if any(value == choice and type(value) is type(choice) for choice in choices):
        return value
    findings.add(path, show(value), ", ".join(map(str, choices)), nearest(str(value), map(str, choices)))
    return INVALID


def _list(value: Any, annotation: Any, path: KeyPath, findings: Findings) -> Any:
    arguments = typing.get_args(annotation)
    member = arguments[0] if arguments else Any
    if not isinstance(value, list):
        hint = f"Write [{value}]." if _is_scalar(value) else ""
        findings.add(path, show(value), type_name(annotation), hint)
        return INVALID
    items = [checked(item, member, (*path, index), findings) for index, item in enumerate(value)]
    if dataclasses.is_dataclass(member):
        return [_placeholders(member) if item is INVALID else item for item in items]
    return INVALID if any(item is INVALID for item in items) else items


def _dict(value: Any, annotation: Any, path: KeyPath, findings: Findings) -> Any:
    if not isinstance(value, dict):
        hint = "Write {} for the defaults." if value is None else ""
        findings.add(path, show(value), "a mapping", hint)
        return INVALID
    member = (typing.get_args(annotation) or (str, Any))[1]
    items = {key: checked(item, member, (*path, key), findings) for key, item in value.items()}
    return {key: item for key, item in items.items() if item is not INVALID}


def _plain(value: Any, path: KeyPath, findings: Findings) -> Any:
    """A value whose type is not known here: its texts and numbers are still looked at."""
    if isinstance(value, list):
        return _list(value, list[Any], path, findings)
    if isinstance(value, dict):
        return _dict(value, dict[str, Any], path, findings)
    return _scalar(value, type(value), path, findings)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _scalar(value: Any, annotation: Any, path: KeyPath, findings: Findings) -> Any:
    allowed = _SCALARS.get(annotation)
    assert allowed, f"a config cannot hold {annotation}"
    if value == REQUIRED:
        findings.add(path, show(value), allowed, "A value is needed here.")
        return INVALID
    if isinstance(value, str) and "${" in value:
        hint = "Use --set for what differs from run to run."
        findings.add(path, show(value), "plain values, without ${...}", hint)
        return INVALID
    if annotation is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # a tab named 4 is written as 4
    fits = isinstance(value, int | float) if annotation is float else isinstance(value, annotation)
    if isinstance(value, bool) and annotation is not bool:
        fits = False
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        whole = annotation is int and isinstance(value, float) and value.is_integer()
        findings.add(path, show(value), allowed, f"Write {value:.0f}." if whole else "")
        return INVALID
    if annotation is float:
        return _float(value, path, findings)
    if annotation is int and abs(value) > MAX_INT:
        findings.add(path, show(value), f"a whole number, at most {MAX_INT}")
        return INVALID
    return value


def _float(value: int | float, path: KeyPath, findings: Findings) -> Any:
    try:
        return float(value)
    except OverflowError:
        findings.add(path, "a number beyond 1.8e308", _SCALARS[float])
        return INVALID
