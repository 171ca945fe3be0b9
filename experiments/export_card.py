"""The model card of an export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from distill.cells import Cell
from distill.interval import LEVEL
from distill.results import read_results
from experiments.pipeline.environment import git_commit
from experiments.pipeline.experiment import Experiment
from students.export.raw import described
from students.export.signature import PAST_ITEM, PAST_USER, TEACHER, Signature

LICENCES = {
    "simulator": "simulated by this project, Apache-2.0",
    "kuairand": "KuaiRand-Pure (https://kuairand.com), CC BY-SA 4.0",
    "parquet": "brought by the user; its licence is theirs to state",
}
SCORES = ("ne", "auc", "calibration")


def card(
    experiment: Experiment,
    cell: Cell,
    seed: int,
    trained_through: int,
    signature: Signature,
    facts: Sequence[str],
    command: str,
) -> str:
    """Markdown: what the student is, what it learnt from, how good it was, how it was made.

    Args:
        experiment: of the run.
        cell, seed: which training.
        trained_through: its last day.
        signature: of the program.
        facts: lines about the export itself.
        command: that wrote it.
    """
    data, channels = experiment.data, ", ".join(experiment.channels_of(cell)) or "none"
    lines = [
        f"# {cell.model} on {cell.vertical}",
        "",
        f"- Architecture {experiment.student_cells[cell].architecture}; tasks {', '.join(signature.tasks)}; "
        f"reads {', '.join([*(one.name for one in signature.features), *signature.dense])}"
        + (f" and a history of {signature.history_length} events." if signature.history_length else "."),
        f"- Channels from the teacher: {channels} (set '{cell.channel}'); what only trains is not in this folder.",
        f"- Data: {data.schema.name}, {LICENCES.get(data.source, 'not known')}; fingerprint {data.fingerprint[:12]}.",
        f"- Trained through day {trained_through}, seed {seed}.",
        f"- Config {experiment.config_hash[:12]}, commit {git_commit()}.",
        *_raw_ids(signature),
        *_of_teacher(signature),
        *facts,
        "",
        "## Scores of the run",
        "",
        *_scores(experiment.folder, cell),
        "",
        f"Made by `{command}`.",
    ]
    return "\n".join(lines) + "\n"


def _raw_ids(signature: Signature) -> list[str]:
    """What a request holds in the place of rows, feature by feature."""
    return [f"- `{one.name}`: {described(one)}." for one in signature.features if one.ids != "rows"]


def _of_teacher(signature: Signature) -> list[str]:
    """What it reads of the teacher at every request, and what that asks of whoever serves it."""
    lines, by = [], {one.name: one for one in signature.vectors}
    stored = {
        PAST_USER: "the user's last {length} examples (`past_user_vectors`)",
        PAST_ITEM: "the item, a decayed mean (`past_item_vectors`)",
    }
    found = [text.format(length=by[name].length) for name, text in stored.items() if name in by]
    if found:
        lines.append(
            f"- **Reads what the teacher stored** of {' and '.join(found)}: the teacher has to go on running over "
            "every day's examples, and its vectors, in the space of its first snapshot, have to be looked up at every "
            "request. An empty list is 'nothing is known'; the scores below are with the vectors."
        )
    if TEACHER in by:
        lines.append(
            f"- **Needs a running teacher**: its vector of every candidate (`{TEACHER}`; null for none) is an "
            "input, so a request costs what the teacher costs. A control to measure with, not a student to ship."
        )
    return lines


def _scores(run: Path, cell: Cell) -> list[str]:
    if not (run / "results.json").is_file():
        return ["The run has not been scored."]
    rows = [row for row in read_results(run / "results.json")["rows"] if row["cell_id"] == cell.cell_id]
    lines = [
        f"Means over seeds with {LEVEL:.0%} intervals over seeds; every day was predicted before it was trained on.",
        "",
        "| task | split | seeds | " + " | ".join(SCORES) + " |",
        "|---|---|---|" + "---|" * len(SCORES),
    ]
    for task, split in dict.fromkeys((row["task"], row["split"]) for row in rows):
        of = [row for row in rows if (row["task"], row["split"]) == (task, split)]
        cells = [_interval([row[name] for row in of if row[name] is not None]) for name in SCORES]
        lines.append(f"| {task} | {split} | {len(of)} | " + " | ".join(cells) + " |")
    return lines


def _interval(values: Sequence[float]) -> str:
    if not values:
        return "undefined"
    if len(values) == 1:
        return f"{values[0]:.4f}"
    half = stdtrit(len(values) - 1, 0.5 + LEVEL / 2) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.4f} ± {half:.4f}"
