"""Speed of reading: the day stream, the history look-up, and both, on one thread.

    python -m experiments.benchmarks.stream [--kuairand FOLDER] [--simulator] [--save]

Figures are ms of processor time per batch of a whole day: the shortest of the repeats, since what others do on the
machine can only add to it. `events` is the mean length of a batch's histories together. With --save the tests of
stream and history run first, and the table goes to experiments/results/stream_<machine>.csv.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import experiments.catalog  # noqa: F401
from distill.config import DataConfig
from distill.dataset import DataSet, prepare
from distill.history import EventStore
from distill.progress import progress_on
from distill.stream import DayStream
from experiments.benchmarks.results import machine, save
from experiments.pipeline.environment import ROOT
from experiments.studies.green import tests_pass

TESTED = tuple(f"tests/distill/test_{name}.py" for name in ("history", "stream", "stream_refuses"))
KUAIRAND = ROOT.parent / "shared" / "data" / "kuairand_pure"
COLUMNS = (
    "data",
    "day",
    "features",
    "batch",
    "history",
    "batches",
    "events",
    "stream_ms",
    "history_ms",
    "both_ms",
)


def milliseconds(run: Callable[[], None], batches: int, repeats: int) -> float:
    """Shortest processor time of a run, per batch."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(1e3 * (time.process_time() - start) / batches)
    return min(times)


def measure(data: DataSet, options: argparse.Namespace) -> dict[str, object]:
    """One line of the table."""
    features = list(data.schema.sparse)[: options.features]

    def stream(history: int) -> DayStream:
        return DayStream(
            data, options.day, options.batch, features, data.schema.dense, history_length=history
        )

    alone, both, store = stream(0), stream(options.history), EventStore(data.events_folder)
    queries = [(batch.user_id, batch.timestamp) for batch in alone]
    events = sum(store.last(*query, options.history).item.numel() for query in queries)

    def look_up() -> None:
        for user_id, timestamp in queries:
            store.last(user_id, timestamp, options.history)

    times = [
        milliseconds(run, len(queries), options.repeats)
        for run in (lambda: _drain(alone), look_up, lambda: _drain(both))
    ]
    sizes = (options.day, len(features), options.batch, options.history, len(queries), events // len(queries))
    return dict(zip(COLUMNS, (data.source, *sizes, *(f"{ms:.3f}" for ms in times)), strict=True))


def _drain(stream: DayStream) -> None:
    for _ in stream:
        pass


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kuairand", default=str(KUAIRAND), help="folder of KuaiRand's files")
    parser.add_argument("--simulator", action="store_true", help="also the simulator's data, made if need be")
    parser.add_argument("--day", type=int, default=11, help="day to read")
    parser.add_argument("--batch", type=int, default=512, help="examples per batch")
    parser.add_argument("--history", type=int, default=50, help="most events per example")
    parser.add_argument("--features", type=int, default=20, help="sparse features, the schema's first")
    parser.add_argument("--repeats", type=int, default=10, help="passes over the day per figure")
    parser.add_argument("--save", action="store_true", help="write experiments/results/stream_<machine>.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.save and not tests_pass(TESTED):
        print("The tests fail, so there is no figure to save.", file=sys.stderr)
        return 1
    sources = [DataConfig(source="simulator")] if options.simulator else []
    if Path(options.kuairand).is_dir():
        sources.append(DataConfig(source="kuairand", root=options.kuairand))
    rows = [measure(prepare(source, progress_on()), options) for source in sources]
    for line in [COLUMNS, *(row.values() for row in rows)]:
        print("".join(f"{value:>12}" for value in line))
    if options.save:
        print(save(f"stream_{machine()}", COLUMNS, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
