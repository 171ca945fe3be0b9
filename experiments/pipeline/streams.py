"""The streams that a model reads on its way through the days, and how many rows they have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from torch.utils.data import IterableDataset

from distill.dataset import DataSet
from distill.delay import LabelRule, Unlabelled
from distill.distributed import batch_of_share, process_number, processes
from distill.other_surfaces import OthersFirst
from distill.protocols import Architecture
from distill.sampling import NegativeSampling
from distill.stream import DayStream
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.supply import Supply

# Small students learn in small batches; what is only predicted needs none of their size.
PREDICTED_TOGETHER = 512


def rows_of(data: DataSet, days: Sequence[int], domains: Sequence[str] | None) -> dict[int, int]:
    """Number of examples of each day, of some domains or of all."""
    if domains is None:
        return {day: data.rows_per_day[day] for day in days}
    wanted = [data.schema.domain_index(name) for name in domains]
    return {day: int(_rows_by_domain(data, day)[wanted].sum()) for day in days}


def _rows_by_domain(data: DataSet, day: int) -> np.ndarray:
    """Number of examples of a day, int64 [domains of the schema]."""
    key = data.folder, data.fingerprint, day
    if key not in _COUNTED:
        _COUNTED[key] = np.bincount(data.outcomes(day).domain, minlength=len(data.schema.domains))
    return _COUNTED[key]


_COUNTED: dict[tuple[Path, str, int], np.ndarray] = {}
"""What was counted, by data set and day: every training, and the rehearsal before it, asks for the same days."""


def in_domains(data: DataSet, domain: np.ndarray, domains: Sequence[str] | None) -> np.ndarray:
    """Which rows are of some domains, or of any; bool [N] of domain indices [N]."""
    if domains is None:
        return np.ones(len(domain), bool)
    return np.isin(domain, [data.schema.domain_index(name) for name in domains])


def with_others(experiment: Experiment, rows: Mapping[int, int], supply: Supply) -> dict[int, int]:
    """A student's rows of each day that is trained on, and about how many it reads of other surfaces on that day."""
    others = supply.other_rows
    if others is None:
        return dict(rows)
    taught = [day for day in rows if experiment.schedule.told_through(day) is not None]
    of_others = rows_of(experiment.data, taught, others.domains)
    return {day: own + round(others.share * of_others.get(day, 0)) for day, own in rows.items()}


def streams(
    experiment: Experiment,
    model: Architecture,
    batch_size: int,
    domains: Sequence[str] | None,
    supply: Supply,
    labels: LabelRule | None = None,
) -> Callable[[int, bool], IterableDataset]:
    """A model's stream of each day: (day, True when it is trained on) to batches.

    Args:
        experiment: the experiment.
        model: says what it reads.
        batch_size: examples per step; where nothing is trained, at least `PREDICTED_TOGETHER`.
        domains: whose rows; None for all.
        supply: what is handed beside the examples.
        labels: what is learnt from; matured labels unless given.
    """
    size, others = batch_of_share(batch_size), supply.other_rows
    sampling = NegativeSampling.of(model.tasks, model.negative_sampling)
    read = partial(
        DayStream,
        experiment.data,
        features=model.features,
        dense=model.dense_features,
        history_length=model.history_length,
        content=model.content,
        past=supply.past,
        shard=process_number(),
        num_shards=processes(),
    )
    trained_on = partial(read, batch_size=size, teacher=supply.log, others=supply.others)

    def days(day: int, training: bool) -> IterableDataset:
        if not training:
            log = supply.log if supply.served else None
            return read(day, batch_size=max(size, PREDICTED_TOGETHER), domains=domains, teacher=log)
        own = trained_on(day, domains=domains, labels=labels, negatives=sampling)
        # Before the first day that is logged the teacher says nothing of anybody's rows.
        if others is None or experiment.schedule.told_through(day) is None:
            return own
        of_others = partial(trained_on, day, domains=others.domains, share=others.share, own=False)
        if not others.labels:
            return OthersFirst(of_others(labels=Unlabelled(experiment.data.schema)), own)
        # Where their labels teach, logits are compared as they are on sampled rows, whoever's these are.
        return OthersFirst(of_others(labels=labels, negatives=sampling), own)

    return days
