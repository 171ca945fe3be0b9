"""Who trains what: every model once, however many slices count it.

Two models are one when everything that decides about them is the same. The slices of one schedule share their teacher
and its log, which holds every lag; `none` learns from no teacher, so that neither lag nor route makes another of it.
The first slice trains, the others hold links to its folders under their own cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from distill.cells import DOMAIN_TEACHER, Cell
from distill.dataset import DataSet
from distill.errors import UserError
from distill.load_config import LoadedConfig
from distill.schedule import Schedule
from distill.transfer import TEACHER
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.jobs import is_done
from experiments.pipeline.settings import alone, decisive
from experiments.studies.links import keep, share
from experiments.studies.trainings import SeedPredictions, settings_hash


@dataclass(frozen=True)
class Part:
    """One model of a slice, all seeds.

    Attributes:
        place: `slices.<name>`, for messages.
        cell: as what the slice counts it.
        experiment: holds this model alone, and whom it learns from; its hash is that of what decides about the model.
        owner: whose trainings it is; None for its own.
    """

    place: str
    cell: Cell
    experiment: Experiment
    owner: Part | None = None

    @property
    def folders(self) -> list[Path]:
        """Everything that its trainings leave in the run folder."""
        base, cell = self.experiment.folder, self.cell
        found = [base / "predictions" / cell.cell_id, base / "checkpoints" / cell.cell_id]
        if cell.role == TEACHER:
            found += [base / "teacher", base / "teacher_log"]
        if cell.role == DOMAIN_TEACHER:
            found.append(base / "domain_teachers" / cell.model)
        return found

    def missing(self, seeds: tuple[int, ...]) -> list[int]:
        """Seeds that are still to be trained."""
        return [seed for seed in seeds if not is_done(self.experiment, self.cell, seed)]


@dataclass(frozen=True)
class OpenSlice:
    """A slice with its run folder.

    Attributes:
        name: `core`, or that of the file.
        settings: resolved, as YAML.
        experiment: all of its models.
        parts: one per cell.
    """

    name: str
    settings: str
    experiment: Experiment
    parts: tuple[Part, ...]

    @property
    def own(self) -> list[Part]:
        """What it trains itself."""
        return [part for part in self.parts if part.owner is None]

    @property
    def sources(self) -> list[SeedPredictions]:
        """Its predictions, those of other slices included."""
        seeds = tuple(self.experiment.config.seeds)
        return [SeedPredictions(part.cell, self.experiment.folder, seeds) for part in self.parts]


def open_slices(loaded: Mapping[str, LoadedConfig], data: DataSet, final: bool) -> list[OpenSlice]:
    """Open every slice and find out what is whose.

    Args:
        loaded: slice to its experiment, the core first.
        data: the prepared data set.
        final: read the test days too.

    Raises:
        UserError: days outside the data set; a model that two slices train differently under one cell.
    """
    owners: dict[str, Part] = {}
    of_cell: dict[Cell, Part] = {}
    slices = []
    for name, of in loaded.items():
        schedule = Schedule(of.config.schedule, data.schema.n_days, final)
        experiment = Experiment(of.config, settings_hash(of), of.base, data, schedule)
        parts = []
        for part in _parts(name, of, experiment):
            first = of_cell.setdefault(part.cell, part)
            if first.experiment.config_hash != part.experiment.config_hash:
                raise UserError(
                    f"{part.place}: {part.cell} is another model there than in {first.place}; allowed: slices that "
                    "differ in kind of schedule, lag or route"
                )
            owner = owners.setdefault(part.experiment.config_hash, part)
            parts.append(part if owner is part else replace(part, owner=owner))
        slices.append(OpenSlice(name, of.to_yaml(), experiment, tuple(parts)))
    return slices


def lay_out(slices: list[OpenSlice]) -> None:
    """Links for what is another slice's, room for what is one's own."""
    for part in (part for of in slices for part in of.parts):
        if part.owner is None:
            for folder in part.folders:
                keep(folder)
        else:
            for folder, target in zip(part.folders, part.owner.folders, strict=True):
                share(folder, target)


def _parts(name: str, loaded: LoadedConfig, experiment: Experiment) -> Iterator[Part]:
    """One for each cell, by itself, so that a change elsewhere trains nothing again."""
    for cell, model in experiment.cells.items():
        config = replace(alone(experiment.config, cell, model), floor=False)
        config = replace(config, wandb=replace(config.wandb, enabled=False))
        digest = settings_hash(replace(loaded, config=decisive(config, cell)))
        yield Part(
            f"slices.{name}", cell, replace(experiment, config=replace(config, seeds=[]), config_hash=digest)
        )
