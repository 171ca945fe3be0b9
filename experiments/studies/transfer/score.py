"""Scores of all slices together: rows, transfer ratios, bars; each slice's results.json for its own part of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.cells import Cell
from distill.progress import Progress
from distill.rates import Rates
from distill.results import ROW_COLUMNS, TRANSFER_COLUMNS, Row
from distill.score_rows import score_rows
from distill.transfer import STUDENT, Losses, transfer_rows
from distill.truth import Truth
from experiments.pipeline.scoring import base_rates, write_metrics, write_scores
from experiments.pipeline.training import read_report
from experiments.studies.scoring import truth_of
from experiments.studies.tables import replace_rows
from experiments.studies.trainings import SeedPredictions
from experiments.studies.transfer.bars import BAR_COLUMNS, claims, small_verticals
from experiments.studies.transfer.calibration import calibrations
from experiments.studies.transfer.file import Transfer
from experiments.studies.transfer.plan import OpenSlice

COLUMNS = (*ROW_COLUMNS, "cpu_seconds")
_CONDITION = ("model", "schedule", "inputs", "route", "lag", "channel")


@dataclass(frozen=True)
class Scored:
    """The rows of the tables, every split.

    Attributes:
        rows: with `COLUMNS`.
        ratios: with `distill.results.TRANSFER_COLUMNS`.
        bars: with `bars.BAR_COLUMNS`.
    """

    rows: list[Row]
    ratios: list[Row]
    bars: list[Row]


def score(study: Transfer, slices: Sequence[OpenSlice], progress: Progress) -> Scored:
    """Score all slices on common rows, and write what each run folder says of itself.

    Args:
        study: the file's content.
        slices: trained.
        progress: shown to the user.
    """
    experiment = slices[0].experiment
    splits, verticals = list(experiment.schedule.scored_days), experiment.data.schema.verticals
    rates, truth = base_rates(experiment), truth_of(experiment)
    rows = list(_rows(slices, rates, splits, truth, progress))
    sources = list(_sources(slices).values())
    ratios: list[Row] = []
    found: list[Row] = []
    with progress.task("transfer ratios", total=len(splits), unit="splits") as bar:
        for split in splits:
            losses = Losses(sources, verticals, rates, split)
            ratios += transfer_rows(losses)
            found += claims(losses)
            if study.small:
                found += small_verticals(sources, study.small, base_rates(experiment, study.small), split)
            found += calibrations(sources, verticals, split)
            bar.advance(1)
    for of in slices:
        _write_results(of, rows, ratios)
    return Scored(rows, ratios, found)


def write_tables(study: Transfer, scored: Scored) -> None:
    """The three tables of the study; rows of splits that were not scored now stay."""
    tables = {
        Path(study.table): (COLUMNS, scored.rows),
        study.beside("ratio"): (TRANSFER_COLUMNS, scored.ratios),
        study.beside("bars"): (BAR_COLUMNS, scored.bars),
    }
    for path, (columns, rows) in tables.items():
        replace_rows(path, columns, rows, ("split",))


def _sources(slices: Sequence[OpenSlice]) -> dict[Cell, SeedPredictions]:
    """Every cell once; what two slices count under one cell is one model."""
    sources: dict[Cell, SeedPredictions] = {}
    for source in (source for of in slices for source in of.sources):
        sources.setdefault(source.cell, source)
    return sources


def _rows(
    slices: Sequence[OpenSlice], rates: Rates, splits: Sequence[str], truth: Truth | None, progress: Progress
) -> Iterator[Row]:
    """Every row of every cell, with the processor time of its training, s."""
    verticals = slices[0].experiment.data.schema.verticals
    seen: set[Cell] = set()
    with progress.task("scores", total=len(slices), unit="slices") as bar:
        for of in slices:
            new = [source for source in of.sources if source.cell not in seen]
            seconds = _cpu_seconds(of, new)
            for row in score_rows(new, verticals, rates, splits, truth):
                yield row | {"cpu_seconds": seconds[row["cell_id"], row["seed"]]}
            seen |= {source.cell for source in new}
            bar.advance(1)


def _cpu_seconds(of: OpenSlice, sources: Sequence[SeedPredictions]) -> Mapping[tuple[str, int], float]:
    """(cell_id, seed) to processor time, s; of all verticals together for the pooled rows of students."""
    seconds: dict[tuple[str, int], float] = defaultdict(float)
    for source in sources:
        cell = source.cell
        for seed in source.seeds:
            spent = read_report(of.experiment, cell, seed)["cpu_seconds"]
            for counted in (cell, cell.pooled) if cell.role == STUDENT else (cell,):
                seconds[counted.cell_id, seed] += spent
    return seconds


def _write_results(of: OpenSlice, rows: Sequence[Row], ratios: Sequence[Row]) -> None:
    sources = of.sources
    write_metrics(of.experiment, sources)
    cells = [source.cell for source in sources]
    ids = {cell.cell_id for cell in cells} | {cell.pooled.cell_id for cell in cells}
    mine = [{column: row[column] for column in ROW_COLUMNS} for row in rows if row["cell_id"] in ids]
    conditions = {tuple(getattr(cell, name) for name in _CONDITION) for cell in cells}
    ratios_of = [row for row in ratios if tuple(row[name] for name in _CONDITION) in conditions]
    write_scores(of.experiment, sources, mine, ratios_of)
