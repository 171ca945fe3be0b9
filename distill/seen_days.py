"""A model that goes on where another ended must not have seen the days that it is about to learn and to predict.

A snapshot keeps the last day that it was trained on by date and end: numbers of days begin anew in every data folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.schema import DayInfo
from distill.tensor_file import open_tensors

META = "seen"
"""Among the facts of a snapshot; absent where it was written before there was this fact."""


def seen_through(day: DayInfo) -> dict[str, Any]:
    """Up to when a model has seen data, as facts of a snapshot.

    Args:
        day: the last one that it was trained on.
    """
    return {META: {"date": day.date, "end_ms": day.end_ms}}


def refuse_seen(path: Path, first: DayInfo, name: str) -> None:
    """Refuse to start from a snapshot that has seen the first day or a later one.

    Args:
        path: of the snapshot.
        first: the first day that the model is to be trained on.
        name: of the setting, for messages.

    Raises:
        UserError: it has seen them, or does not say what it has seen.
    """
    with open_tensors(path) as file:
        seen = file.meta.get(META)
    if seen is None:
        raise UserError(
            f"{name}: got {path}, which does not say up to when it was trained, allowed: a snapshot that says so, from "
            f"before {first.date}. It was written by an earlier version: train the run that it is of again, in another "
            "folder."
        )
    # Dates tell two days apart; ends tell too where two folders do not date their rows alike.
    if seen["date"] >= first.date or seen["end_ms"] >= first.end_ms:
        raise UserError(
            f"{name}: got {path}, trained up to {seen['date']}, allowed: trained up to a day before {first.date}, the "
            "first one of the data, or the model would predict what it has seen. Name an earlier snapshot, or a data "
            "folder that begins later."
        )
