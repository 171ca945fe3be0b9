"""The example from one's own Parquet to scores runs as it stands, and is as short as it promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.experiments.raw_ids import with_raw_ids
from tests.experiments.tiny_experiment import write_days

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "experiments" / "examples" / "own_parquet.py"


def test_own_parquet_is_scored(tmp_path: Path) -> None:
    data = with_raw_ids(write_days(tmp_path / "data", rows=300))
    command = [sys.executable, "-m", "experiments.examples.own_parquet", str(data), str(tmp_path / "work")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    scored = [line.split() for line in done.stdout.splitlines()[-2:]]
    assert [line[:2] for line in scored] == [["click", "300"], ["order", "300"]]
    assert len(EXAMPLE.read_text().splitlines()) < 40
