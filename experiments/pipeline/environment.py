"""What a run was made with: package versions, git commit, time."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import platform
import subprocess
from pathlib import Path

PACKAGES = (
    "gem-distill",
    "torch",
    "torchrec",
    "fbgemm-gpu",
    "lightning",
    "omegaconf",
    "wandb",
    "pyarrow",
    "numpy",
)
ROOT = Path(__file__).resolve().parents[2]
TEST_READS = ROOT / "experiments" / "results" / "test_reads.csv"


def versions() -> dict[str, str]:
    """Name to version of what determines results; `python` included."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_commit() -> str:
    """Commit of the code, with `-dirty` when tracked files differ from it; empty outside a repository."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def now() -> str:
    """UTC time, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def trace_test_read(config_hash: str, reason: str) -> None:
    """Append a line to TEST_READS for a reading of the test days (PROTOCOL.md, "Choosing and testing").

    Args:
        config_hash: of the experiment.
        reason: why; the user's text.
    """
    TEST_READS.parent.mkdir(parents=True, exist_ok=True)
    new = not TEST_READS.exists()
    with TEST_READS.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(["time", "git_commit", "config_hash", "reason"])
        writer.writerow([now(), git_commit(), config_hash, reason])
