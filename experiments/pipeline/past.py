"""The teacher's past as students read it: which stores they ask for, the alignment of snapshots, the writing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise

import numpy as np
import torch

from distill.alignment import procrustes
from distill.cells import Cell
from distill.checkpoint import load_model
from distill.past import PastRequest
from distill.past_store import past_is_written, write_past
from distill.progress import Progress
from experiments.pipeline.build import build_channels
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.logs import built_teacher
from experiments.pipeline.streams import streams
from experiments.pipeline.supply import past_folder

ANCHORS = 4096
"""Examples by which two snapshots' spaces are laid over each other."""


def missing(experiment: Experiment, teacher: Cell, seed: int) -> list[PastRequest]:
    """What students will ask a teacher's past for and is not stored yet, one request a folder."""
    wanted = {
        past_folder(experiment, teacher, seed, request): request for request in _asked(experiment, teacher)
    }
    days, log = experiment.schedule.logged_days(), experiment.log_folder(teacher, seed)
    return [
        request
        for folder, request in sorted(wanted.items())
        if not past_is_written(folder, experiment.data, log, days, request)
    ]


def _asked(experiment: Experiment, teacher: Cell) -> Iterator[PastRequest]:
    """The requests of all that learn from a teacher."""
    learning = [
        cell for cell in (*experiment.domain_cells, *experiment.student_cells) if cell.channel != "none"
    ]
    pupils = [cell for cell in learning if experiment.teacher_of(cell) == teacher]
    # One of each student and set: its surfaces ask for the same.
    for cell in {(cell.model, cell.channel): cell for cell in pupils}.values():
        channels = build_channels(experiment.channels_of(cell), experiment.data.schema, seed=0)
        yield from (channel.past for channel in channels.values() if channel.past is not None)


def write(experiment: Experiment, teacher: Cell, seed: int, request: PastRequest, progress: Progress) -> None:
    """Store a teacher's representations of all logged days as a request says."""
    days = experiment.schedule.logged_days()
    rotations = _rotations(experiment, teacher, seed) if request.alignment == "procrustes" else {}
    folder = past_folder(experiment, teacher, seed, request)
    with progress.task(f"teacher past {teacher.model} seed {seed}", total=len(days), unit="days") as bar:
        facts = write_past(
            folder, experiment.data, experiment.log_folder(teacher, seed), days, request, rotations
        )
        bar.advance(len(days), **facts.shown())


def _rotations(experiment: Experiment, teacher: Cell, seed: int) -> dict[int, np.ndarray]:
    """Into the first snapshot's space, by the day through which a snapshot was trained; float64 [R, R]."""
    schedule = experiment.schedule
    first_day: dict[int, int] = {}
    for day in schedule.logged_days():
        through = schedule.snapshot_for(day)
        assert through is not None
        first_day.setdefault(through, day)
    model, channels, supply = built_teacher(experiment, teacher, seed)
    batch_size = experiment.logged_cells[teacher].optimizer.batch_size
    days = streams(experiment, model, batch_size, teacher.domains, supply)

    def encoded(through: int, day: int) -> np.ndarray:
        """What a snapshot makes of the first examples of a day, float32 [ANCHORS or fewer, R]."""
        load_model(model.eval(), experiment.snapshot(teacher, seed, through), channels)
        encode = channels["representation"].encode
        with torch.inference_mode():
            batches = islice(days(day, False), -(-ANCHORS // batch_size))
            return np.concatenate([encode(model(batch)).numpy() for batch in batches])

    rotations: dict[int, np.ndarray] = {}
    for before, through in pairwise(first_day):
        step = procrustes(encoded(through, first_day[through]), encoded(before, first_day[through]))
        rotations[through] = step @ rotations[before] if before in rotations else step
    return rotations
