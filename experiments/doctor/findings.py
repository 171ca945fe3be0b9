"""One thing that the doctor looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What was looked at, what is there, and what to do when that is not enough.

    Attributes:
        name: what was looked at, for the table's first column.
        found: what is there.
        needed: what the project asks for; empty where nothing is asked.
        state: `ok`; `note` = it works, with a consequence worth knowing; `broken` = something will fail.
        remedy: consequence and what to do, one sentence each; empty when `ok`.
    """

    name: str
    found: str
    needed: str = ""
    state: Literal["ok", "note", "broken"] = "ok"
    remedy: str = ""
