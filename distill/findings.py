"""Collects every problem of a config with the file, line and key path it stands at. Free of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.errors import ConfigErrors, Problem
from distill.strict_yaml import Document, KeyPath

_SHOWN = 60  # characters of a value that a message repeats


def show(value: Any) -> str:
    """A value as a message repeats it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list) and len(str(value)) > _SHOWN:
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


class Findings:
    """The problems of one config, which may be made of several files and `--set` arguments."""

    def __init__(self) -> None:
        self._documents: list[tuple[KeyPath, Document]] = []
        self._found: list[tuple[tuple[str, int], KeyPath | None, Problem]] = []
        self.student_names: dict[int, str] = {}

    def place(self, prefix: KeyPath, document: Document) -> None:
        """Say that everything below `prefix` comes from `document`; a later call wins over an earlier one."""
        self._documents.append((prefix, document))

    def folder(self, path: KeyPath) -> Path:
        """Folder that a path written at this place is relative to."""
        return self._origin(path)[1].folder

    def add(self, path: KeyPath, got: str, allowed: str, hint: str = "") -> None:
        """Add one problem, unless one at the same place, above or below it says it already.

        Args:
            path: where.
            got: what stands there, as text.
            allowed: what may stand there.
            hint: what else helps, such as the nearest name.
        """
        if not self.touches(path):
            (label, line), key = self._label(path), self.render(path)
            self._found.append(((label, line), path, Problem(_at(label, line), key, got, allowed, hint)))

    def add_message(self, path: KeyPath, message: str) -> None:
        """Add one problem whose text another check has written."""
        if not self.touches(path):
            (label, line), key = self._label(path), self.render(path)
            self._found.append(((label, line), path, Problem(_at(label, line), key, "", "", message)))

    def add_problem(self, problem: Problem, path: KeyPath | None = None) -> None:
        """Add a finished problem.

        Args:
            problem: with its own place, such as one of a file that cannot be read.
            path: the place in the config that it spoils; None when the rest can be judged without it.
        """
        label, line = self._label(path) if path else (problem.file, 0)
        self._found.append(((label, line), path, problem))

    def touches(self, path: KeyPath) -> bool:
        """True when a problem stands at this place, above it or below it."""
        places = [other for _, other, _ in self._found if other is not None]
        return any(path[: len(other)] == other[: len(path)] for other in places)

    def raise_any(self) -> None:
        """Raise ConfigErrors with every problem, by file and line; nothing when there is none."""
        if self._found:
            found = sorted(self._found, key=lambda item: item[0])
            raise ConfigErrors([problem for _, _, problem in found])

    def render(self, path: KeyPath) -> str:
        """`("students", 1, "options")` as `students[1] (deepfm).options`."""
        text = "" if path else "the settings"
        for position, part in enumerate(path):
            if isinstance(part, int):
                name = self.student_names.get(part) if path[:position] == ("students",) else None
                text += f"[{part}]" + (f" ({name})" if name else "")
            else:
                text += f".{part}" if text else part
        return text

    def _origin(self, path: KeyPath) -> tuple[KeyPath, Document]:
        holders = [
            (prefix, document) for prefix, document in self._documents if path[: len(prefix)] == prefix
        ]
        assert holders, f"no document holds {path}"
        return max(reversed(holders), key=lambda item: len(item[0]))

    def _label(self, path: KeyPath) -> tuple[str, int]:
        prefix, document = self._origin(path)
        inside = path[len(prefix) :]
        lines = (document.lines.get(inside[:length]) for length in range(len(inside), -1, -1))
        return document.label, next((line for line in lines if line), 0)


def _at(label: str, line: int) -> str:
    return f"{label}:{line}" if line else label
