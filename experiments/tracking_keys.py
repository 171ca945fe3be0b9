"""Names under which the tracker logs, and by which a dashboard finds it again.

| key                                            | where    | what                                            |
|------------------------------------------------|----------|-------------------------------------------------|
| `<vertical>/<task>/<ne, auc, calibration>`     | by day   | mean over seeds; `..._low`, `..._high`: ± 1 sd  |
| `teacher/<vertical>/<task>/<...>`              | by day   | the same of the teacher alone: panels choose    |
|                                                |          | by key, not by run                              |
| `seeds/<seed>/<vertical>/<task>/<...>`         | by day   | of one seed                                     |
| `training/<examples_per_s, mfu>`               | by day   | of the day trained before                       |
| `final/<split>/<vertical>/<task>/<score>`      | summary  | mean over seeds; `..._sd`                       |
| `transfer/<split>/<vertical>/<task>/<measure>` | summary  | transfer ratio; `..._low`, `..._high`: interval |
| `cost/<...>`                                   | summary  | means over seeds                                |
"""

from __future__ import annotations

DAY = "day"
EXAMPLES_SEEN = "examples_seen"
EXAMPLES_PER_S = "training/examples_per_s"

SEEDS_TABLE = "seeds"
TRANSFER_TABLE = "transfer_intervals"
SLICES_TABLE = "worst_calibrated"

COSTS = (
    *("seconds", "cpu_seconds", "examples_per_second"),
    *("parameters", "dense_parameters", "table_parameters", "flops_per_example"),
)
"""Of `experiments.recorded.RecordedRun.cost`."""

TAG_LENGTH = 64
"""What W&B allows."""


def run_name(model: str, vertical: str, channel: str) -> str:
    """Name of a cell's run."""
    return f"{model} {vertical} {channel}"


def tag(role: str, model: str) -> str:
    """The tag that all runs of one model carry; panels are filtered by it."""
    return f"{role}:{model}"[:TAG_LENGTH]


def curve(vertical: str, task: str, measure: str) -> str:
    """A measure by day, mean over seeds."""
    return f"{vertical}/{task}/{measure}"


def teacher_curve(vertical: str, task: str, measure: str) -> str:
    """The same, in the teacher's run alone."""
    return f"teacher/{curve(vertical, task, measure)}"


def seed_curve(seed: int, vertical: str, task: str, measure: str) -> str:
    """A measure by day, of one seed."""
    return f"seeds/{seed}/{curve(vertical, task, measure)}"


def final(split: str, vertical: str, task: str, score: str) -> str:
    """A score of results.json, mean over seeds."""
    return f"final/{split}/{vertical}/{task}/{score}"


def transfer(split: str, vertical: str, task: str, measure: str) -> str:
    """A transfer ratio of results.json; of a vertical, or of `macro`."""
    return f"transfer/{split}/{vertical}/{task}/{measure}"


def cost(name: str) -> str:
    """One of `COSTS`."""
    return f"cost/{name}"
