"""What a user can get wrong, and what stops a run.

`UserError` and its children are the user's to repair (exit code 2); `NonFiniteError` is a run that went wrong (exit
code 1). Every message says the field, what was got, what is allowed and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_ALIKE = 0.65
"""Likeness from which a name is taken for a mistyped one; at 0.6 `students` is `dense`."""


class UserError(ValueError):
    """Something the user can repair; the message is complete, no traceback is needed."""


class DataError(UserError):
    """The data set breaks its contract (ids, labels, order, days, files)."""


class LogError(UserError):
    """A teacher log that does not fit: another data set, missing, duplicate, foreign or stale ids."""


class NonFiniteError(RuntimeError):
    """A loss or an embedding gradient is NaN or infinite; raised before any parameter is updated."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a config file.

    Attributes:
        file: where: `file:line`, or the `--set` argument.
        key: key path; lists by index, students by name as well.
        got: what stands there; empty when `hint` is the whole message, written by another check.
        allowed: what may stand there.
        hint: what else helps, such as the nearest name.
    """

    file: str
    key: str
    got: str
    allowed: str
    hint: str = ""

    def __str__(self) -> str:
        if not self.got:
            if self.hint.startswith(self.key):
                return f"{self.file}: {self.hint}"
            # The other check knows its field by the last part of the path, or not at all.
            return f"{self.file}: {self.key}: {self.hint.removeprefix(self.key.rpartition('.')[2] + ': ')}"
        hint = f" {self.hint}" if self.hint else ""
        return f"{self.file}: {self.key}: got {self.got}; allowed: {self.allowed}.{hint}"


class ConfigErrors(UserError):
    """All problems of a config at once.

    Args:
        problems: at least one problem.
    """

    def __init__(self, problems: Sequence[Problem]):
        assert problems, "ConfigErrors needs at least one problem"
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in problems))


def nearest(name: str, names: Iterable[str]) -> str:
    """`Did you mean 'x'?` for the name closest to a mistyped one, or an empty string.

    Args:
        name: what the user wrote.
        names: what would have been right.
    """
    name, known = str(name), [str(n) for n in names]
    begun = [other for other in known if name and other.startswith(name)]
    matches = difflib.get_close_matches(name, known, n=1, cutoff=_ALIKE) or begun
    return f"Did you mean '{matches[0]}'?" if matches else ""
