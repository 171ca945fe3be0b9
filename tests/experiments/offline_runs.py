"""Reads offline W&B runs back with W&B's own reader."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

Records = list[dict[str, Any]]


def inspect(run_folder: Path) -> Records:
    """Records of one offline run."""
    wandb = Path(sys.executable).with_name("wandb")
    command = [str(wandb), "leet", "inspect", "--json", str(run_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def history(records: Records) -> list[dict[str, Any]]:
    """What was logged, a dictionary per point."""
    return [record["history"]["item"] for record in records if record["type"] == "history"]


def summary(records: Records) -> dict[str, Any]:
    """The summary as it was at the end."""
    found: dict[str, Any] = {}
    for record in records:
        if record["type"] == "summary":
            found |= record["summary"].get("update", {})
    return found


def header(records: Records) -> dict[str, Any]:
    """What the run says of itself."""
    return next(record["run"] for record in records if record["type"] == "run")


def artifacts(records: Records) -> list[dict[str, Any]]:
    """Artifacts that the run used or logged."""
    return [record["artifact"] for record in records if record["type"] == "artifact"]
