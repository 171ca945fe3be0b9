"""JSON that another process wrote, as a dataclass: every key known, every value of its type. Free of torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distill.errors import ConfigErrors, UserError
from distill.findings import Findings, show
from distill.strict_yaml import Document
from distill.structured import INVALID, checked

MAX_BYTES = 1 << 26


def read_mapping(path: Path, error: type[UserError], advice: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: a file that is there.
        error: raised when it is none.
        advice: what to do then, a sentence.

    Raises:
        UserError: of the kind given; too large, not UTF-8, not JSON, or no object.
    """
    if path.stat().st_size > MAX_BYTES:
        raise error(f"{path}: got {path.stat().st_size} bytes, allowed: at most {MAX_BYTES}. {advice}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (
        ValueError,
        RecursionError,
    ) as problem:  # numbers of thousands of digits, nesting of thousands of levels
        raise error(f"{path}: is not JSON ({problem}). {advice}") from problem
    if not isinstance(content, dict):
        raise error(f"{path}: got {show(content)}, allowed: one object. {advice}")
    return content


def typed(
    content: dict[str, Any], form: type, path: Path, error: type[UserError], advice: str
) -> dict[str, Any]:
    """The values of an object as a dataclass takes them.

    Args:
        content: of the file.
        form: the dataclass.
        path, error, advice: as for `read_mapping`.

    Returns:
        The content, numbers written where a text belongs turned into it.

    Raises:
        UserError: of the kind given; keys and values that are not those of the dataclass.
    """
    findings = Findings()
    findings.place((), Document(str(path), content, path.parent))
    kept = checked(content, form, (), findings)
    assert kept is not INVALID, "a mapping is no dataclass's problem"
    try:
        findings.raise_any()
    except ConfigErrors as problems:
        raise error(f"{problems} {advice}") from problems
    return kept
