"""The sanity floor: a logistic regression on smoothed rates of strictly earlier days.

Every id of every single-valued feature, and every (user, surface) pair, has a rate of positives over the days before
the row's day, smoothed towards the overall rate. A teacher that does not beat this has learned nothing worth
transferring. Deterministic: it has no seed. All days are held in memory, which suits data sets of some million rows.

Shape letters: R rows of a day, P features and pairs, K tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill.cells import ALL, Cell
from distill.dataset import DataSet
from distill.day_reader import DayReader
from distill.predictions import SPLITS, UNKNOWN, Predictions, prediction_path, write_predictions
from distill.progress import Progress
from experiments.pipeline.experiment import NONE, Experiment

ROLE = "floor"
_PRIOR_ROWS = 20.0
_DAYS_BEFORE_TUNING = 2


@dataclass
class _Day:
    """Rows of one day: ids int64 [P, R], labels int8 [R, K]; `inputs` float32 [R, 2 P] follow from earlier days."""

    number: int
    example_id: np.ndarray
    user_id: np.ndarray
    timestamp: np.ndarray
    domain: np.ndarray
    ids: np.ndarray
    labels: np.ndarray


def floor_cell(experiment: Experiment) -> Cell:
    """The floor's cell: one model of every surface."""
    kind = experiment.config.schedule.kind
    return Cell(experiment.config.name, "logistic_regression", ROLE, ALL, kind, "thin", "direct", 0, NONE)


def run_floor(experiment: Experiment, progress: Progress) -> None:
    """Train on the days up to three before tuning starts, predict all later ones; the same file for every seed.

    Args:
        experiment: with tuning from day 9, days 2-6 are trained on (before day 1 there are no rates) and days
            from 7 are predicted.
        progress: shown to the user.
    """
    last = experiment.schedule.last_day
    first_scored = max(3, min(experiment.schedule.config.tune_days) - _DAYS_BEFORE_TUNING)
    with progress.task("floor: logistic regression", total=last + 1, unit="steps") as bar:
        days = []
        for number in range(1, last + 1):
            days.append(_read(experiment.data, number))
            bar.advance(1)
        inputs = _rate_inputs(days, experiment.data)
        train = [day for day in days if 1 < day.number < first_scored]
        scored = [day for day in days if day.number >= first_scored]
        logits = np.stack(
            [_fit_predict(train, scored, inputs, task) for task in range(len(experiment.data.schema.tasks))],
            axis=1,
        )
        bar.advance(1)
    predictions = _predictions(experiment, scored, logits)
    paths = [
        prediction_path(experiment.folder, floor_cell(experiment), seed) for seed in experiment.config.seeds
    ]
    for path in set(paths[0].parent.glob("*.parquet")) - set(paths):
        path.unlink()  # of a seed that is no longer asked for
    for path in paths:
        write_predictions(path, predictions)


def _read(data: DataSet, number: int) -> _Day:
    features = [name for name, feature in data.schema.sparse.items() if not feature.multi]
    reader = DayReader(data, number, features, (), None, validate=True)
    block = reader.read(0, reader.rows)
    user, domain = block.user_id.numpy(), block.domain.numpy()
    ids = np.concatenate([block.single.numpy(), (user * len(data.schema.domains) + domain)[None]])
    return _Day(
        number,
        block.example_id.numpy(),
        user,
        block.timestamp.numpy(),
        domain,
        ids,
        data.outcomes(number).labels,
    )


def _rate_inputs(days: list[_Day], data: DataSet) -> dict[int, dict[int, np.ndarray]]:
    """day -> task -> float32 [R, 2 P]: logit of the smoothed rate and log of the count, from earlier days alone."""
    codes, sizes = _codes(days)
    tasks = range(len(data.schema.tasks))
    known = [[np.zeros(size) for size in sizes] for _ in tasks]
    positive = [[np.zeros(size) for size in sizes] for _ in tasks]
    inputs: dict[int, dict[int, np.ndarray]] = {}
    for day, of_day in zip(days, codes, strict=True):
        inputs[day.number] = {k: _smoothed(of_day, known[k], positive[k]) for k in tasks}
        for k in tasks:
            rows = day.labels[:, k] != UNKNOWN
            for place, code in enumerate(of_day):
                known[k][place] += np.bincount(code[rows], minlength=sizes[place])
                positive[k][place] += np.bincount(code[rows], day.labels[rows, k], minlength=sizes[place])
    return inputs


def _codes(days: list[_Day]) -> tuple[list[list[np.ndarray]], list[int]]:
    """Ids as positions 0, 1, ... of each feature, day by day; and how many positions each feature has."""
    ends = np.cumsum([day.ids.shape[1] for day in days])[:-1]
    found = [np.unique(ids, return_inverse=True) for ids in np.concatenate([day.ids for day in days], axis=1)]
    by_feature = [np.split(inverse.reshape(-1), ends) for _, inverse in found]
    return [list(of_day) for of_day in zip(*by_feature, strict=True)], [len(unique) for unique, _ in found]


def _smoothed(codes: list[np.ndarray], known: list[np.ndarray], positive: list[np.ndarray]) -> np.ndarray:
    overall = (positive[0].sum() + 1) / (known[0].sum() + 2)
    columns = []
    for code, n, hits in zip(codes, known, positive, strict=True):
        rate = (hits[code] + _PRIOR_ROWS * overall) / (n[code] + _PRIOR_ROWS)
        columns += [np.log(rate / (1 - rate)), np.log1p(n[code])]
    return np.stack(columns, axis=1).astype(np.float32)


def _fit_predict(
    train: list[_Day], scored: list[_Day], inputs: dict[int, dict[int, np.ndarray]], task: int
) -> np.ndarray:
    # A fifth of what every `distill run`, and each of its processes, would wait for at its start.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.concatenate([inputs[day.number][task] for day in train])
    y = np.concatenate([day.labels[:, task] for day in train])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    model.fit(x[y != UNKNOWN], y[y != UNKNOWN])
    return model.decision_function(np.concatenate([inputs[day.number][task] for day in scored])).astype(
        np.float32
    )


def _predictions(experiment: Experiment, days: list[_Day], logits: np.ndarray) -> Predictions:
    schema = experiment.data.schema

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(day, name) for day in days])

    number = np.concatenate([np.full(len(day.example_id), day.number, np.int32) for day in days])
    splits = {day.number: SPLITS.index(experiment.schedule.split(day.number)) for day in days}
    labels = column("labels")
    return Predictions(
        example_id=column("example_id"),
        user_id=column("user_id"),
        timestamp=column("timestamp"),
        day=number,
        domain=column("domain").astype(np.int32),
        domains=schema.domains,
        split=np.array([splits[n] for n in sorted(splits)], np.int8)[number - days[0].number],
        logits={task: logits[:, place] for place, task in enumerate(schema.task_names)},
        labels={task: labels[:, place] for place, task in enumerate(schema.task_names)},
    )
