"""`distill export`: from a student of a run to a folder that is served without the project."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.export import ExportedProgram

from distill.batch import Batch
from distill.cells import Cell
from distill.checkpoint import load_model
from distill.errors import UserError
from distill.load_config import load_config
from distill.progress import progress_on
from distill.protocols import Architecture
from distill.scores import logloss
from distill.stream import DayStream
from experiments.export_card import card
from experiments.pipeline.build import build_student
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.run import open_experiment
from experiments.pipeline.supply import Supply, open_supply
from students.export import raw
from students.export.folder import (
    CARD,
    COMPILED,
    EXAMPLE,
    EXPECTED,
    PROGRAM,
    new_folder,
    write_arrays,
    write_signature,
)
from students.export.rows import as_tensors, inputs_of, table_of
from students.export.serve import Served, serve
from students.export.signature import Precision
from students.export.trace import compile_program, compiler, save_program, trace

TOLERANCE = 1e-6
"""Most that an fp32 export's logits may differ from the trained student's, relative to numbers above 1."""
ALLOWED_NE = 2e-4
"""Most that fewer bits may change NE, relative to the trained student's: 0.02 %."""
NOT_ONCE = f"no, its sums in another order would differ by more than {TOLERANCE:.0e}"
_BATCH, _BATCHES, _EXAMPLES = 512, 40, 64


@dataclass(frozen=True)
class Chosen:
    """A trained student of a run, and what it is handed of the teacher beside the rows."""

    experiment: Experiment
    cell: Cell
    seed: int
    model: Architecture
    supply: Supply
    trained_through: int


@dataclass(frozen=True)
class Parity:
    """How the export compares with the trained student.

    Attributes:
        rows: compared.
        difference: largest of a logit, relative to numbers above 1.
        ne: largest relative change of a task's NE; None without labels.
    """

    rows: int
    difference: float
    ne: float | None


def choose(run: Path, student: str, vertical: str | None, channel: str | None, seed: int | None) -> Chosen:
    """Load a student of a run.

    Args:
        run: the run folder.
        student: its name in the experiment.
        vertical, channel, seed: which of its trainings; None where the run has one only (the first, of seeds).

    Raises:
        UserError: no such training, or several.
    """
    loaded = load_config(run / "config.yaml")
    experiment = open_experiment(loaded, False, progress_on())
    cell = _cell(experiment, student, vertical, channel)
    seeds = experiment.config.seeds
    seed = seeds[0] if seed is None else seed
    if seed not in seeds:
        raise UserError(f"--seed: got {seed}, allowed: {', '.join(map(str, seeds))}")
    settings = experiment.student_cells[cell]
    model, channels = build_student(
        settings,
        experiment.channels_of(cell),
        settings.optimizer,
        experiment.data.schema,
        seed,
        experiment.base,
    )
    meta = load_model(model, run / "checkpoints" / cell.cell_id / str(seed) / "model.safetensors")
    # What only teaches is not served, and its teacher's log need not be there any more.
    read = [channels[name] for name in getattr(model, "inputs", {})]
    supply = open_supply(experiment, cell, seed, read, model.tasks)
    return Chosen(experiment, cell, seed, model.eval(), supply, meta["trained_through"])


def write_export(chosen: Chosen, folder: Path, precision: Precision, compiled: bool, command: str) -> Parity:
    """Write an export and hold it to the trained student.

    Args:
        chosen: the student.
        folder: of the export.
        precision: of the tables.
        compiled: also write AOTInductor's package.
        command: for the card.

    Raises:
        UserError: the student cannot be served, or the export says something else than the student.
    """
    vocabularies = chosen.experiment.data.vocabularies()
    served = serve(chosen.model, precision, vocabularies)
    batches = list(itertools.islice(_batches(chosen), _BATCHES))
    tables = [table_of(batch, served.signature) for batch in batches]
    example = tables[0].slice(0, _EXAMPLES)
    program, parity, once = _program(chosen, served, batches, tables)
    with new_folder(folder) as made:
        if compiled:
            compile_program(program, made / COMPILED)
        expected = program.module(check_guards=False)(*_arguments(served, example)).numpy()
        save_program(program, made / PROGRAM)
        write_arrays(made, served.arrays)
        write_signature(made, served.signature, {"trained_through_day": chosen.trained_through})
        raw.write(made, served.signature, vocabularies)
        pq.write_table(raw.with_values(example, served.signature, vocabularies), made / EXAMPLE)
        logits = {f"logit_{task}": expected[:, k] for k, task in enumerate(served.signature.tasks)}
        pq.write_table(pa.table(logits), made / EXPECTED)
        facts = [
            f"- Tables: {precision}; compared with the trained student on {parity.rows} rows: {shown(parity)}.",
            f"- What it says of a user is computed once for each user: {'yes' if once else NOT_ONCE}.",
            f"- AOTInductor package: {'yes' if compiled else why_not_compiled()}.",
        ]
        text = card(
            chosen.experiment,
            chosen.cell,
            chosen.seed,
            chosen.trained_through,
            served.signature,
            facts,
            command,
        )
        (made / CARD).write_text(text)
    return parity


def shown(parity: Parity) -> str:
    """A comparison for people."""
    ne = "" if parity.ne is None else f", NE changed by {100 * parity.ne:.4f} % at most"
    return f"largest difference of a logit {parity.difference:.1e}{ne}"


def why_not_compiled() -> str:
    """Why an export has no package."""
    return "not asked for" if compiler() else "no, there is no C++ compiler (g++ or clang++) on this machine"


def _cell(experiment: Experiment, student: str, vertical: str | None, channel: str | None) -> Cell:
    cells = [cell for cell in experiment.student_cells if cell.model == student]
    if not cells:
        names = sorted({cell.model for cell in experiment.student_cells})
        raise UserError(f"STUDENT: got '{student}', allowed: {', '.join(names)}")
    for option, got, field in (("vertical", vertical, "vertical"), ("channel", channel, "channel")):
        allowed = list(dict.fromkeys(getattr(cell, field) for cell in cells))
        if (got is None and len(allowed) > 1) or (got is not None and got not in allowed):
            raise UserError(
                f"--{option}: got {'nothing' if got is None else repr(got)}, allowed: {', '.join(allowed)}"
            )
        cells = [cell for cell in cells if got is None or getattr(cell, field) == got]
    return cells[0]


def _batches(chosen: Chosen) -> Iterator[Batch]:
    """Rows of the last day that the run chose its settings on."""
    model, supply = chosen.model, chosen.supply
    day = max(chosen.experiment.schedule.config.tune_days)
    return iter(
        DayStream(
            chosen.experiment.data,
            day,
            _BATCH,
            model.features,
            model.dense_features,
            history_length=model.history_length,
            domains=chosen.cell.domains,
            teacher=supply.log if supply.served else None,
            past=supply.past,
        )
    )


def _arguments(served: Served, table: pa.Table) -> list[torch.Tensor]:
    return [*served.arrays.values(), *as_tensors(inputs_of(served.signature, table))]


def _program(
    chosen: Chosen, served: Served, batches: Sequence[Batch], tables: Sequence[pa.Table]
) -> tuple[ExportedProgram, Parity, bool]:
    """A program that holds against the trained student, how it does, and whether it computes users once.

    Sums in another order are rounded otherwise. Where that is more than an fp32 export may differ by, the order stays.
    """
    arguments = _arguments(served, tables[0].slice(0, _EXAMPLES))
    program = trace(served.module, arguments)
    parity, once = _compare(chosen, served, program, batches, tables), True
    if served.signature.precision == "fp32" and parity.difference > TOLERANCE:
        program = trace(served.module, arguments, once=False)
        parity, once = _compare(chosen, served, program, batches, tables), False
    refuse(parity, served.signature.precision)
    return program, parity, once


def _compare(
    chosen: Chosen,
    served: Served,
    program: ExportedProgram,
    batches: Sequence[Batch],
    tables: Sequence[pa.Table],
) -> Parity:
    run = program.module(check_guards=False)
    with torch.no_grad():
        trained = torch.cat([chosen.model(batch).logits for batch in batches]).numpy()
        exported = torch.cat([run(*_arguments(served, table)) for table in tables]).numpy()
    difference = float((np.abs(exported - trained) / np.maximum(np.abs(trained), 1)).max())
    changes = []
    for place, k in enumerate(chosen.model.task_index):
        known = torch.cat([batch.matured[:, k] for batch in batches]).numpy()
        labels = torch.cat([batch.labels[:, k] for batch in batches]).numpy()[known]
        if len(labels):
            before, after = (logloss(logits[known, place], labels) for logits in (trained, exported))
            changes.append(abs(after - before) / before)
    return Parity(len(trained), difference, max(changes, default=None))


def refuse(parity: Parity, precision: Precision) -> None:
    if precision == "fp32" and not parity.difference <= TOLERANCE:
        raise UserError(
            f"export: logits differ from the trained student's by {parity.difference:.2e}, allowed: {TOLERANCE:.0e}. "
            "The student's forward pass computes something else when it is traced"
        )
    if precision != "fp32" and parity.ne is not None and not parity.ne <= ALLOWED_NE:
        raise UserError(
            f"--precision: got {precision}, with which NE changes by {100 * parity.ne:.4f} %, allowed: "
            f"{100 * ALLOWED_NE:.2f} %. Take fp16 or fp32"
        )
