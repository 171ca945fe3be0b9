"""`--set a.b=c`: values on the command line that replace those of a config file. Free of torch.

The key is a dotted path, a student or domain teacher is named by its name (`students.deepfm.options.dim=8`). The
value is YAML (`seeds=[0,1]`, `teacher=null`). A mapping replaces a mapping whole. Later arguments win.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.errors import ConfigErrors, Problem, nearest
from distill.findings import Findings, show
from distill.strict_yaml import Document, KeyPath, parse

_BY_NAME = ("students", "domain_teachers")
"""Lists whose elements are named by their names."""


def apply_overrides(content: dict[str, Any], overrides: Sequence[str], findings: Findings) -> None:
    """Write every override into the content; what is wrong with them goes to the findings.

    Args:
        content: the experiment as read, students from files included; changed in place.
        overrides: arguments of `--set`, without the option.
        findings: gets the overrides as documents, and their problems.
    """
    for text in overrides:
        _apply(content, text, findings)


def _apply(content: dict[str, Any], text: str, findings: Findings) -> None:
    name, equals, value_text = text.partition("=")
    keys = name.strip().split(".")
    label = f"--set {text}"
    if not equals or not all(keys):
        allowed = "KEY=VALUE with a dotted key, such as schedule.lag=2 or seeds=[0,1]"
        findings.add_problem(Problem(label, "key", show(text), allowed))
        return
    try:
        value = parse(value_text, label, Path()).content
        path = _path(content, keys, label)
        written = _write(content, path, value, label)
    except ConfigErrors as error:
        for problem in error.problems:
            findings.add_problem(replace(problem, file=label))
        return
    findings.place(written, Document(label, value, Path()))


def _path(content: dict[str, Any], keys: list[str], label: str) -> KeyPath:
    """Key path in the content; the name of a student or domain teacher becomes its index."""
    models = content.get(keys[0])
    if keys[0] not in _BY_NAME or not isinstance(models, list):
        return tuple(keys)
    if len(keys) < 3:
        if keys[0] != "students":
            return tuple(keys)
        allowed = "students.<name>.<key>, such as students.deepfm.verticals=[feed]"
        raise ConfigErrors([Problem(label, "key", show(".".join(keys)), allowed)])
    names = [str(model.get("name", "")) if isinstance(model, dict) else "" for model in models]
    if keys[1] not in names:
        known = list(dict.fromkeys(name for name in names if name))
        allowed = ", ".join(known) or "no name, since none has one"
        raise ConfigErrors([Problem(label, keys[0], show(keys[1]), allowed, nearest(keys[1], known))])
    return (keys[0], names.index(keys[1]), *keys[2:])


def _write(content: Any, path: KeyPath, value: Any, label: str) -> KeyPath:
    """Set one value, making the mappings on the way that are absent or null; the path of what is new."""
    new = path
    for position, key in enumerate(path[:-1]):
        inner = content[key] if isinstance(key, int) else content.get(key)
        if inner is None:
            inner = content[key] = {}
            new = min(new, path[: position + 1], key=len)
        if not isinstance(inner, list if isinstance(path[position + 1], int) else dict):
            where = ".".join(str(part) for part in path[: position + 1])
            raise ConfigErrors(
                [Problem(label, where, f"a key below {show(inner)}", f"{where}=VALUE, replaced whole")]
            )
        content = inner
    content[path[-1]] = value
    return new
