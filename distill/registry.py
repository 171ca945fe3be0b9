"""Named things that a config can ask for. The registries here are empty; `experiments` fills them.

Free of torch: a registry holds the import path of a builder until somebody builds, so that `distill ls` and
`distill validate` stay fast.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distill.errors import UserError, nearest


@dataclass(frozen=True)
class Entry:
    """One registered thing.

    Attributes:
        name: what a YAML file calls it.
        config: dataclass of its settings, every field documented. Where some name files that decide about a training, a
            channel's says by `files()` which: keys down to each setting, as a tuple, to the files that are read.
        builder: `module:function`, imported when first built.
        summary: one line for `distill ls`.
        needs: what else the experiment must hold: `root` (data.root, a source), `teacher`, `representation` (that of
            the teacher), `others` (several teachers) or `privileged` (a teacher that reads what the student lacks; a
            channel).
        reads: inputs that not every architecture can read: `content`, and `fields` that channels give; its builder gets
            `content`, `extra_fields` and `extra_history` when there are any.
    """

    name: str
    config: type
    builder: str
    summary: str
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()

    def load(self) -> Callable[..., Any]:
        """Import the builder."""
        module, _, function = self.builder.partition(":")
        return getattr(importlib.import_module(module), function)


class Registry:
    """Names to entries of one kind.

    Args:
        kind: the word used in messages, such as `student architecture`.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def add(
        self,
        name: str,
        config: type,
        builder: str,
        summary: str,
        needs: Sequence[str] = (),
        reads: Sequence[str] = (),
    ) -> None:
        """Register; an existing name is an error. The arguments are the fields of `Entry`."""
        assert name not in self._entries, f"{self.kind} '{name}' is registered twice"
        self._entries[name] = Entry(name, config, builder, summary, tuple(needs), tuple(reads))

    def get(self, name: str) -> Entry:
        """The entry of that name.

        Raises:
            UserError: unknown name, with the allowed ones and the nearest.
        """
        if name not in self._entries:
            raise UserError(f"{self.kind}: got '{name}', allowed: {', '.join(self)}. {nearest(name, self)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def entries(self) -> list[Entry]:
        """All entries by name."""
        return [self._entries[name] for name in self]


TEACHERS = Registry("teacher architecture")
STUDENTS = Registry("student architecture")
CHANNELS = Registry("channel")
SOURCES = Registry("source")
