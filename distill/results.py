"""`results.json` of a run folder: rows, transfer, timing, versions, commit, config hash. Free of torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.errors import UserError, nearest
from distill.files import atomic_path
from distill.strict_json import read_mapping

CELL_FIELDS = ("cell_id", "model", "role", "vertical", "schedule", "inputs", "route", "lag", "channel")
SCORE_COLUMNS = (
    *("examples", "positives", "base_rate", "constant_logloss"),
    *("ne", "logloss", "auc", "gauc", "calibration", "oracle_ne"),
)
ROW_COLUMNS = (*CELL_FIELDS, "task", "seed", "split", *SCORE_COLUMNS)
TRANSFER_COLUMNS = (
    *("model", "schedule", "inputs", "route", "lag", "channel", "vertical", "task", "split", "measure"),
    *("tr", "tr_low", "tr_high", "delta_vm", "delta_fm", "seeds"),
)
KEYS = ("rows", "transfer", "timing", "versions", "git_commit", "config_hash")

Row = dict[str, Any]


class ResultsError(UserError):
    """A `results.json` that breaks its form: keys, columns, values that JSON does not have."""


def write_results(
    path: str | Path,
    rows: Sequence[Row],
    transfer: Sequence[Row],
    timing: Mapping[str, Any],
    versions: Mapping[str, str],
    git_commit: str,
    config_hash: str,
) -> None:
    """Write the file, all at once or not at all.

    Args:
        path: the file; its folder is made.
        rows: dictionaries with exactly `ROW_COLUMNS` (`distill.score_rows.score_rows`).
        transfer: dictionaries with exactly `TRANSFER_COLUMNS` (`distill.transfer.transfer_rows`).
        timing: what took how long, in seconds.
        versions: package -> version.
        git_commit: commit of the code, empty when it runs outside a repository.
        config_hash: hash of the resolved configuration.

    Raises:
        ResultsError: missing or unknown columns; NaN or infinity, which JSON does not have (undefined is
            None).
    """
    content = {
        "rows": list(rows),
        "transfer": list(transfer),
        "timing": dict(timing),
        "versions": dict(versions),
        "git_commit": git_commit,
        "config_hash": config_hash,
    }
    _check(content, str(path))
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_results(path: str | Path) -> dict[str, Any]:
    """Read what `write_results` wrote.

    Returns:
        A dictionary with `KEYS`; scores that are undefined are None.

    Raises:
        ResultsError: no such file, not JSON, missing or unknown keys or columns.
    """
    path = Path(path)
    if not path.is_file():
        raise ResultsError(f"results: no file {path}. Is this a run folder, and has the run ended?")
    content = read_mapping(path, ResultsError, "Score the run again (`distill run`).")
    _check(content, str(path))
    return content


def _check(content: Any, where: str) -> None:
    if not isinstance(content, dict):
        raise ResultsError(
            f"{where}: got {type(content).__name__}, allowed: one object with {', '.join(KEYS)}"
        )
    _check_names(content, KEYS, where)
    for key, columns in (("rows", ROW_COLUMNS), ("transfer", TRANSFER_COLUMNS)):
        if not isinstance(content[key], list):
            raise ResultsError(f"{where}: {key}: got {content[key]!r:.40}, allowed: a list of rows")
        for number, row in enumerate(content[key]):
            if not isinstance(row, dict):
                raise ResultsError(
                    f"{where}: {key}[{number}]: got {row!r:.40}, allowed: a mapping of columns"
                )
            _check_names(row, columns, f"{where}: {key}[{number}]")
            for name, value in row.items():
                if isinstance(value, float) and not math.isfinite(value):
                    raise ResultsError(
                        f"{where}: {key}[{number}].{name}: got {value}, allowed: finite, or None"
                    )


def _check_names(got: Mapping[str, Any], allowed: Iterable[str], where: str) -> None:
    allowed = tuple(allowed)
    missing = [name for name in allowed if name not in got]
    unknown = [f"'{name}' {nearest(name, missing)}".strip() for name in got if name not in allowed]
    if missing or unknown:
        raise ResultsError(
            f"{where}: missing {missing}, unknown {unknown}, allowed: exactly {', '.join(allowed)}"
        )
