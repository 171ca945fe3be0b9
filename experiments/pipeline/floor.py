"""The sanity floor: a logistic regression on smoothed rates of strictly earlier days.

Every id of every single-valued feature, and every (user, surface) pair, has a rate of positives over the days before
the row's day, smoothed towards the overall rate; of labels that were known when the row's day began. A teacher that
does not beat this has learned nothing worth transferring. Deterministic: it has no seed. All days are held in memory,
which suits data sets of some million rows.

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
    """Rows of one day: ids int64 [P, R], labels int8 [R, K], known from `matures` int64 [R, K], ms, on."""

    number: int
    example_id: np.ndarray
    user_id: np.ndarray
    timestamp: np.ndarray
    domain: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    matures: np.ndarray

    def known(self, task: int, now: int) -> np.ndarray:
        """bool [R]: labels that are known by a time, ms."""
        return (self.labels[:, task] != UNKNOWN) & (self.matures[:, task] <= now)


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
        now = experiment.data.schema.days[first_scored - 2].end_ms
        tasks = range(len(experiment.data.schema.tasks))
        logits = np.stack([_fit_predict(train, scored, inputs, task, now) for task in tasks], axis=1)
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
        np.concatenate([rows.matures for rows in data.label_rows(number)]),
    )


def _rate_inputs(days: list[_Day], data: DataSet) -> dict[int, dict[int, np.ndarray]]:
    """day -> task -> float32 [R, 2 P]: logit of the smoothed rate and log of the count, of what was known before."""
    codes, sizes = _codes(days)
    tasks = range(len(data.schema.tasks))
    inputs: dict[int, dict[int, np.ndarray]] = {}
    for place, day in enumerate(days):
        inputs[day.number] = {}
        for k in tasks:
            counts = _Counts(sizes, k)
            for earlier, of_earlier in zip(days[:place], codes, strict=False):
                # Late labels of any of them may have become known since.
                counts.add(earlier, of_earlier, now=data.schema.days[day.number - 2].end_ms)
            inputs[day.number][k] = counts.smoothed(codes[place])
    return inputs


class _Counts:
    """Known labels and positives of a task, of every id of each feature.

    Args:
        sizes: ids of each feature.
        task: which task.
    """

    def __init__(self, sizes: list[int], task: int):
        self._task = task
        self._known = [np.zeros(size) for size in sizes]
        self._positive = [np.zeros(size) for size in sizes]

    def add(self, day: _Day, codes: list[np.ndarray], now: int) -> None:
        """Count a day's labels that are known by now."""
        rows = day.known(self._task, now)
        for code, known, positive in zip(codes, self._known, self._positive, strict=True):
            known += np.bincount(code[rows], minlength=len(known))
            positive += np.bincount(code[rows], day.labels[rows, self._task], minlength=len(known))

    def smoothed(self, codes: list[np.ndarray]) -> np.ndarray:
        """float32 [R, 2 P] of a day's rows."""
        overall = (self._positive[0].sum() + 1) / (self._known[0].sum() + 2)
        columns = []
        for code, known, positive in zip(codes, self._known, self._positive, strict=True):
            rate = (positive[code] + _PRIOR_ROWS * overall) / (known[code] + _PRIOR_ROWS)
            columns += [np.log(rate / (1 - rate)), np.log1p(known[code])]
        return np.stack(columns, axis=1).astype(np.float32)


def _codes(days: list[_Day]) -> tuple[list[list[np.ndarray]], list[int]]:
    """Ids as positions 0, 1, ... of each feature, day by day; and how many positions each feature has."""
    ends = np.cumsum([day.ids.shape[1] for day in days])[:-1]
    found = [np.unique(ids, return_inverse=True) for ids in np.concatenate([day.ids for day in days], axis=1)]
    by_feature = [np.split(inverse.reshape(-1), ends) for _, inverse in found]
    return [list(of_day) for of_day in zip(*by_feature, strict=True)], [len(unique) for unique, _ in found]


def _fit_predict(
    train: list[_Day], scored: list[_Day], inputs: dict[int, dict[int, np.ndarray]], task: int, now: int
) -> np.ndarray:
    """Logits of the days to be scored, of a model that learns from what is known `now`."""
    # A fifth of what every `distill run`, and each of its processes, would wait for at its start.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.concatenate([inputs[day.number][task] for day in train])
    y = np.concatenate([day.labels[:, task] for day in train])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    known = np.concatenate([day.known(task, now) for day in train])
    model.fit(x[known], y[known])
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
