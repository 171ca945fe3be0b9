"""What came from what: data, teacher, teacher log, student, export, as artifacts of W&B runs. Free of torch.

An artifact is a description with hashes, not a copy: models and logs stay in the run folder. The same content is
the same version, so recording it again adds nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.cells import DOMAIN_TEACHER, Cell
from distill.files import atomic_path
from experiments.recorded import FLOOR, NONE, STUDENT, TEACHER, RecordedRun

DATASET, MODEL, LOG, EXPORT = "dataset", "model", "teacher_log", "export"
"""Types of artifacts."""


@dataclass(frozen=True)
class Artifact:
    """One thing that a run reads or makes.

    Attributes:
        name: unique among artifacts of its project.
        kind: DATASET, MODEL, LOG or EXPORT.
        facts: what it is, with hashes.
        made_from: names of the artifacts that it was made from.
    """

    name: str
    kind: str
    facts: dict[str, Any]
    made_from: list[str] = field(default_factory=list)


def inputs(run: RecordedRun, cell: Cell) -> list[Artifact]:
    """What a cell was trained on: the data; unless it is `none` or the teacher itself, a teacher's log."""
    found = [_data(run)]
    taught = cell.role == DOMAIN_TEACHER or (cell.role == STUDENT and cell.channel != NONE)
    if taught:
        found.append(_log(run, _teacher_of(run, cell)))
    return [artifact for artifact in found if artifact is not None]


def outputs(run: RecordedRun, cell: Cell) -> list[Artifact]:
    """What a cell left behind: its parameters; those who teach, their log."""
    found = [_model(run, cell)] if cell.role != FLOOR else []
    if cell.role in (TEACHER, DOMAIN_TEACHER):
        found.append(_log(run, cell))
    return [artifact for artifact in found if artifact is not None]


def exported(run: RecordedRun, cell: Cell, seed: int, folder: Path) -> tuple[list[Artifact], Artifact]:
    """What an export was made from, and the export itself.

    Args:
        run: whose student it is.
        cell, seed: which training.
        folder: what `distill export` wrote.
    """
    made_from = [artifact for artifact in outputs(run, cell) if artifact.kind == MODEL]
    precision = json.loads((folder / "signature.json").read_text())["precision"]
    files = json.loads((folder / "manifest.json").read_text())["sha256"]
    facts = {"cell_id": cell.cell_id, "seed": seed, "precision": precision, "sha256": files}
    name = _name("export", cell.model, cell.vertical, cell.channel, str(seed), precision, cell.cell_id)
    return made_from, Artifact(name, EXPORT, facts, [artifact.name for artifact in made_from])


def write_description(folder: Path, artifact: Artifact) -> Path:
    """The artifact as a file in the run folder, for W&B to send."""
    path = folder / "wandb" / "artifacts" / f"{artifact.name}.json"
    content = {"kind": artifact.kind, **artifact.facts, "made_from": artifact.made_from}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    return path


def _data(run: RecordedRun) -> Artifact | None:
    """The data of all trainings; None before any has ended."""
    prints = sorted({report["data_fingerprint"] for report in run.trainings.values()})
    source = (run.config.get("data") or {}).get("source", "")
    return (
        Artifact(_name("data", source), DATASET, {"source": source, "fingerprint": prints})
        if prints
        else None
    )


def _model(run: RecordedRun, cell: Cell) -> Artifact | None:
    folder = run.folder / "checkpoints" / cell.cell_id
    facts = {
        "cell_id": cell.cell_id,
        "model": cell.model,
        "vertical": cell.vertical,
        "channel": cell.channel,
        "sha256": {path.parent.name: _sha256(path) for path in sorted(folder.glob("*/model.safetensors"))},
    }
    made_from = [artifact.name for artifact in inputs(run, cell)]
    name = _name("model", cell.model, cell.vertical, cell.channel, cell.cell_id)
    return Artifact(name, MODEL, facts, made_from) if facts["sha256"] else None


def _log(run: RecordedRun, teacher: Cell | None) -> Artifact | None:
    """All seeds of a teacher's log, as its manifests describe them; None where none is written."""
    if teacher is None:
        return None
    below = run.folder / "domain_teachers" / teacher.model if teacher.role == DOMAIN_TEACHER else run.folder
    days: dict[str, dict[str, str]] = {}
    for path in sorted(below.glob("teacher_log/*/*/day-*.json")):
        seed_and_lag = "/".join(path.parts[-3:-1])
        days.setdefault(seed_and_lag, {})[path.stem] = json.loads(path.read_text())["checksum"]
    model = _model(run, teacher)
    made_from = [] if model is None else [model.name]
    facts = {"cell_id": teacher.cell_id, "teacher": teacher.model, "sha256": days}
    return Artifact(_name("log", teacher.model, teacher.cell_id), LOG, facts, made_from) if days else None


def _teacher_of(run: RecordedRun, cell: Cell) -> Cell | None:
    """Whom a cell learns from, as `Experiment.teacher_of` has it; None where that one is not scored."""
    if cell.route == "hierarchical":
        own = [other for other in run.cells if other.role == DOMAIN_TEACHER]
        return next((other for other in own if cell.vertical in (other.domains or ())), None)
    return next((other for other in run.cells if other.role == TEACHER), None)


def _name(*parts: str) -> str:
    """Letters, digits, dots, dashes and underscores are all that W&B allows."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join(part for part in parts if part))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
