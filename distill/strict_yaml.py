"""YAML for configs: plain values only, every key once, the line of every key remembered. Free of torch.

Refused, each with its line: tags, anchors and aliases, a key that stands twice, keys that are no text,
several documents, nesting deeper than `MAX_DEPTH`, files above `MAX_BYTES`. Scalars follow YAML 1.2: `yes`
and `on` are text, `1e-3` is a number, `2026-01-01` and `010` are text.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from distill.errors import ConfigErrors, Problem

MAX_BYTES = 1 << 20
MAX_DEPTH = 32

_READABLE = "readable YAML: one document of `key: value` lines"
_SURROGATES = re.compile("[\ud800-\udfff]")

KeyPath = tuple[str | int, ...]
"""Where a value stands: keys of mappings and indices of lists, from the top: ("students", 0, "name")."""


@dataclass(frozen=True)
class Document:
    """A parsed text.

    Attributes:
        label: what messages call it: the file, or the `--set` argument.
        content: None, bool, int, float, str, and lists and str-keyed dicts of these.
        folder: folder that paths inside it are relative to.
        lines: line (from 1) of every key path; empty for a text that has no lines to speak of.
    """

    label: str
    content: Any
    folder: Path
    lines: dict[KeyPath, int] = field(default_factory=dict)


def read(path: str | Path) -> Document:
    """Read a YAML file.

    Args:
        path: the file; messages show it as it stands here.

    Raises:
        ConfigErrors: no such file, not UTF-8, too large, or anything that `parse` refuses.
    """
    path = Path(path)
    if not os.path.isfile(path):
        got = "a folder" if path.is_dir() else "no such file"
        raise ConfigErrors([Problem(str(path), "file", got, "a YAML file")])
    if path.stat().st_size > MAX_BYTES:
        raise ConfigErrors(
            [Problem(str(path), "file", f"{path.stat().st_size} bytes", f"at most {MAX_BYTES} bytes")]
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigErrors(
            [Problem(str(path), "file", f"bytes that are not UTF-8 ({error.reason})", "UTF-8")]
        ) from error
    return parse(text, str(path), path.parent)


def parse(text: str, label: str, folder: Path) -> Document:
    """Parse one YAML text.

    Args:
        text: the text.
        label: what messages call it.
        folder: folder that paths inside the text are relative to.

    Raises:
        ConfigErrors: everything refused (see the module's text), all at once where the text can be read on.
    """
    try:
        problems = _refused_events(text, label)
        if problems:
            raise ConfigErrors(problems)
        reader = _Reader(text, label)
        content = reader.read()
    except yaml.YAMLError as error:
        raise ConfigErrors([_unreadable(error, label)]) from error
    if reader.problems:
        raise ConfigErrors(reader.problems)
    return Document(label, content, folder, reader.lines)


class _Loader(yaml.SafeLoader):
    """Scalars as in YAML 1.2: text unless clearly null, a truth value or a number."""

    yaml_implicit_resolvers: dict[str | None, list[Any]] = {}


_FLOAT = r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))"
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)", list("-+0123456789")),
    ("float", _FLOAT + r"|\.(?:nan|NaN|NAN)", list("-+0123456789.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _refused_events(text: str, label: str) -> list[Problem]:
    """Tags, anchors, aliases and depth, found before anything is built from the text."""
    problems: list[Problem] = []
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        where = f"{label}:{event.start_mark.line + 1}"
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                return [*problems, Problem(where, "YAML", "deeper nesting", f"at most {MAX_DEPTH} levels")]
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if isinstance(event, yaml.AliasEvent):
            problems.append(Problem(where, "YAML", f"the alias *{event.anchor}", "the value written out"))
        elif getattr(event, "anchor", None):
            problems.append(Problem(where, "YAML", f"the anchor &{event.anchor}", "values without anchors"))
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag:
            problems.append(Problem(where, "YAML", f"the tag {event.tag}", "plain values without tags"))
    return problems


def _unreadable(error: yaml.YAMLError, label: str) -> Problem:
    mark = getattr(error, "problem_mark", None)
    where = f"{label}:{mark.line + 1}" if mark else label
    said = getattr(error, "problem", None) or " ".join(str(error).split())
    return Problem(where, "YAML", f"text that cannot be read: {said}", _READABLE)


class _Reader:
    """Builds plain values from the nodes of one text."""

    def __init__(self, text: str, label: str):
        self._loader = _Loader(text)
        self._label = label
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[Problem] = []

    def read(self) -> Any:
        node = self._loader.get_single_node()
        return None if node is None else self._value(node, ())

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.SequenceNode):
            return [self._value(child, (*path, index)) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                self._refuse(
                    key_node, f"the key {getattr(key_node, 'value', None)!r:.40}", "text as a key (quote it)"
                )
                continue
            if key in content:
                self._refuse(key_node, f"the key '{key}' a second time", "every key once")
            content[key] = self._value(value_node, (*path, key))
            self.lines[(*path, key)] = key_node.start_mark.line + 1
        return content

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if _SURROGATES.search(node.value):  # "\ud800" in quotes: cannot be written anywhere
            self._refuse(node, "half a Unicode character", "text that UTF-8 can hold")
            return None
        try:
            return self._loader.construct_object(node)
        except ValueError:  # Python converts no text of thousands of digits
            self._refuse(node, f"a number of {len(node.value)} digits", "numbers of ordinary length")
            return None

    def _refuse(self, node: yaml.Node, got: str, allowed: str) -> None:
        self.problems.append(Problem(f"{self._label}:{node.start_mark.line + 1}", "YAML", got, allowed))
