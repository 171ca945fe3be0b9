"""What it costs to be able to go on: time for checkpoints, memory over many days, seconds from SIGTERM to the end.

    python -m experiments.benchmarks.survive [--days 20] [--rows 8000] [--teacher gem-s] [--every 0.5] [--save]

A teacher learns simulated days, each predicted before it is trained on, as `distill teacher` trains it.

checkpoint_share   of the training's wall time, with a checkpoint every --every minutes (an experiment's default is 5)
checkpoint         one of them, s; `checkpoint_size` is what it writes
rss                resident memory after each day (trained on, the next one predicted), MiB
rss_growth         MiB a day from the third day on, least squares with its interval of 95 %, less what a day's
                   predictions take, which are held until the training has ended
stop               seconds from SIGTERM to the end of the command, the longest of --stops; each left a checkpoint, and
                   the next command went on from it

A bar that is met says so: a share below 5 %, a growth whose interval reaches down to 0, a stop within 30 s. --save
writes experiments/results/survive_<machine>.csv.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.special import stdtrit
from scipy.stats import linregress

from experiments.benchmarks.results import machine, save
from experiments.pipeline.environment import ROOT

COLUMNS = ("measure", "day", "value", "low", "high", "unit", "bar", "met")
WARM = 2
"""Days in which libraries, buffers and histories reach their size."""
MIB = 2**20
LONGEST = 600
"""Seconds that a day may take."""

Line = dict[str, Any]


class Watch:
    """A progress bar that notes the resident memory whenever a day of training begins."""

    def __init__(self) -> None:
        self.rss: list[int] = []

    def task(self, title: str, total: int | None = None, unit: str = "") -> Any:
        if " day " in title:
            self.rss.append(resident())
        return nullcontext(self)

    def advance(self, amount: int = 1, **shown: Any) -> None:
        """Nothing."""


def resident() -> int:
    """Bytes of this process that are in memory."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return 1024 * int(line.split()[1])


def write_experiment(folder: Path, options: argparse.Namespace, every_minutes: float) -> Path:
    """An experiment of a teacher alone."""
    content = {
        "name": "survive",
        "output": str(folder / "run"),
        "data": {
            "source": "simulator",
            "cache": str(options.cache),
            "options": {"days": options.days + 2, "rows_per_day": options.rows},
        },
        "teacher": {"file": str(ROOT / "experiments" / "teachers" / f"{options.teacher}.yaml")},
        "students": [],
        "schedule": {"tune_days": [options.days + 2], "test_days": []},
        "checkpoint": {"every_minutes": every_minutes},
        "wandb": {"enabled": False},
        "workers": 1,
        "floor": False,
    }
    folder.mkdir()
    (folder / "survive.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "survive.yaml"


def train_watched(file: Path, out: Path) -> None:
    """Train the teacher in this process; `out` gets the memory after each day and the training's report."""
    import experiments.catalog  # noqa: F401  fills the registries
    from distill.load_config import load_config
    from distill.progress import NoProgress
    from experiments.pipeline.jobs import train_teacher
    from experiments.pipeline.run import open_experiment
    from experiments.pipeline.training import read_report

    experiment, watch = open_experiment(load_config(file), False, NoProgress()), Watch()
    cell = experiment.teacher_cell
    assert cell is not None
    train_teacher(experiment, cell, 0, watch)
    tasks, report = len(experiment.data.schema.task_names), read_report(experiment, cell, 0)
    out.write_text(json.dumps({"rss": watch.rss[1:], "tasks": tasks, "report": report}))


def trained(folder: Path, options: argparse.Namespace) -> list[Line]:
    """Time for checkpoints, and memory."""
    file, out = write_experiment(folder, options, options.every), folder / "watched.json"
    process = multiprocessing.get_context("spawn").Process(target=train_watched, args=(file, out))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the training ended with exit code {process.exitcode}")
    found = json.loads(out.read_text())
    return [*of_time(found["report"]), *of_memory(found["rss"], options.rows * (_IDS + 4 * found["tasks"]))]


_IDS = 36
"""Bytes of a prediction's ids and day; a logit takes 4 more a task."""


def of_time(report: Line) -> list[Line]:
    made, seconds = report["checkpoints"]["made"], report["checkpoints"]["seconds"]
    if not made:
        raise RuntimeError(f"the training ended after {report['seconds']:.0f} s, before a checkpoint was due")
    share = 100 * seconds / report["seconds"]
    return [
        line("checkpoint_share", share, "% of the training", bar=5, met=share < 5),
        line("checkpoint", seconds / made, f"s, mean of {made}"),
        line("training", report["seconds"], "s"),
    ]


def of_memory(rss: list[int], predicted: int) -> list[Line]:
    """Lines of the days, and of the growth beyond the bytes that a day's predictions take."""
    days = np.arange(1, len(rss) + 1)
    slope, low, high = growth(days[WARM:], np.array(rss[WARM:]) / MIB - days[WARM:] * predicted / MIB)
    lines = [line("rss", after / MIB, "MiB", day=int(day)) for day, after in zip(days, rss, strict=True)]
    return [*lines, line("rss_growth", slope, "MiB a day", low=low, high=high, bar=0, met=low <= 0)]


def growth(days: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
    """Slope of a straight line through values by day, and the ends of its interval of 95 %."""
    fitted = linregress(days, values)
    reach = fitted.stderr * stdtrit(len(days) - 2, 0.975)
    return fitted.slope, fitted.slope - reach, fitted.slope + reach


def stopped(folder: Path, options: argparse.Namespace) -> list[Line]:
    """Seconds from SIGTERM to the end, again and again, in one training that goes on each time."""
    file = write_experiment(folder, options, every_minutes=5.0)
    seconds, size = [], 0
    for stop in range(options.stops):
        seconds.append(_seconds_to_stop(file, folder / "run", resume=stop > 0))
        newest = max(folder.glob("run/checkpoints/*/0/unfinished/step-*"))
        size = sum(part.stat().st_size for part in newest.rglob("*") if part.is_file())
    longest = max(seconds)
    return [
        line("stop", longest, f"s, longest of {options.stops}", low=min(seconds), bar=30, met=longest < 30),
        line("checkpoint_size", size / MIB, "MiB"),
    ]


def _seconds_to_stop(file: Path, run: Path, resume: bool) -> float:
    """Train until one more day is done and the next is under way, then stop."""
    before = _done(run)
    command = [
        sys.executable,
        "-m",
        "experiments",
        "run",
        "--quiet",
        *(["--resume"] if resume else []),
        str(file),
    ]
    with (file.parent / "said.txt").open("a") as said:
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
    patience = time.monotonic() + LONGEST
    while _done(run) <= before and time.monotonic() < patience:
        time.sleep(0.05)
        if process.poll() is not None:
            raise RuntimeError(f"the training ended by itself: {(file.parent / 'said.txt').read_text()}")
    time.sleep(1)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    if process.wait(LONGEST) != 1:
        raise RuntimeError(f"SIGTERM: exit code {process.returncode}, allowed: 1")
    return time.monotonic() - began


def _done(run: Path) -> int:
    """Days that are trained."""
    return len(list(run.glob("teacher/0/snapshots/*.safetensors")))


def line(measure: str, value: float, unit: str, **more: Any) -> Line:
    """A line of the table."""
    return dict.fromkeys(COLUMNS, "") | {"measure": measure, "value": value, "unit": unit} | more


def _short(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--days", type=int, default=20, help="days after which memory is looked at, 5 or more"
    )
    parser.add_argument("--rows", type=int, default=8000, help="of a day")
    parser.add_argument("--teacher", default="gem-s", help="one of experiments/teachers")
    parser.add_argument("--every", type=float, default=0.5, help="minutes between checkpoints")
    parser.add_argument("--stops", type=int, default=5, help="by SIGTERM")
    parser.add_argument("--save", action="store_true", help="write experiments/results/survive_<machine>.csv")
    options = parser.parse_args()
    table = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options.cache = folder / "data"
        for measure in (trained, stopped):
            for one in measure(folder / measure.__name__, options):
                table.append(one)
                print(*(f"{_short(value)!s:>18}" for value in one.values()), flush=True)
    if options.save:
        rows = [{name: _short(value) for name, value in one.items()} for one in table]
        print(save(f"survive_{machine()}", COLUMNS, rows))
    return 0 if all(one["met"] in ("", True) for one in table) else 1


if __name__ == "__main__":
    sys.exit(main())
