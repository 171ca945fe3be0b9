"""Which day is trained on, logged and predicted by whom (PROTOCOL.md, "Schedules, snapshots, lag"). Free of torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from distill.config import ScheduleConfig
from distill.errors import UserError

KINDS = ("progressive", "frozen")


@dataclass(frozen=True)
class DayPlan:
    """One model's way through the days.

    Attributes:
        train: days trained on, in order, one pass.
        predict_after: day trained on -> days predicted with the parameters as they are then.
    """

    train: tuple[int, ...]
    predict_after: Mapping[int, tuple[int, ...]]

    @property
    def predicted(self) -> tuple[int, ...]:
        return tuple(day for days in self.predict_after.values() for day in days)

    def only(self, days: Collection[int]) -> DayPlan:
        """The same way without the days on which a surface has no rows.

        Args:
            days: those that have rows. A day that was to be predicted after one of the others is predicted after
                the day trained on before; without such a day it stays unpredicted.
        """
        predict_after: dict[int, tuple[int, ...]] = {}
        last = None
        for day in self.train:
            if day in days:
                last, predict_after[day] = day, ()
            if last is not None:
                predict_after[last] += tuple(d for d in self.predict_after.get(day, ()) if d in days)
        return DayPlan(tuple(predict_after), predict_after)


@dataclass(frozen=True)
class Schedule:
    """The days of an experiment.

    Args:
        config: the experiment's schedule.
        n_days: days in the data set.
        final: True when the test days are read.

    Raises:
        UserError: a day outside the data set, an unknown kind, a negative lag.
    """

    config: ScheduleConfig
    n_days: int
    final: bool = False

    def __post_init__(self) -> None:
        config = self.config
        if config.kind not in KINDS:
            raise UserError(f"schedule.kind: got '{config.kind}', allowed: {', '.join(KINDS)}")
        if config.lag < 0:
            raise UserError(f"schedule.lag: got {config.lag}, allowed: whole days >= 0")
        if not config.tune_days:
            raise UserError(
                "schedule.tune_days: got an empty list, allowed: at least one day, e.g. [9, 10, 11]"
            )
        for name, days in (("tune_days", config.tune_days), ("test_days", config.test_days)):
            outside = [day for day in days if not 2 <= day <= self.n_days]
            if outside:
                raise UserError(
                    f"schedule.{name}: got {outside}, allowed: days 2 to {self.n_days} of this data set"
                )
        if config.test_days and min(config.test_days) <= max(config.tune_days):
            raise UserError(
                f"schedule.test_days: got {list(config.test_days)}, allowed: days after the tune days "
                f"{list(config.tune_days)}, or settings would be chosen on the test"
            )
        if self.final and not config.test_days:
            raise UserError("schedule.test_days: got an empty list, allowed with --final: at least one day")

    @property
    def last_day(self) -> int:
        """Last day that may be read: the test days are untouched without --final."""
        return max(self.config.test_days if self.final else self.config.tune_days)

    @property
    def scored_days(self) -> dict[str, list[int]]:
        """Days of each split that this run scores."""
        scored = {"tune": sorted(self.config.tune_days)}
        return scored | ({"test": sorted(self.config.test_days)} if self.final else {})

    def split(self, day: int) -> str:
        """`tune`, `test` or `train`."""
        if day in self.config.tune_days:
            return "tune"
        return "test" if day in self.config.test_days else "train"

    def teacher_plan(self) -> DayPlan:
        """Progressive: every day is predicted, then trained on. Frozen: days 1 to teacher_days, then predict only."""
        if self.config.kind == "progressive":
            return _progressive(range(1, self.last_day + 1))
        days = range(1, self.config.teacher_days + 1)
        return _frozen(days, self.last_day)

    def student_plan(self) -> DayPlan:
        """As the teacher's, from the first day students train on; frozen students stop at student_last_day."""
        config = self.config
        if config.kind == "progressive":
            return _progressive(range(config.student_first_day or 1, self.last_day + 1))
        first = config.student_first_day or config.teacher_days + 1
        return _frozen(range(first, min(config.student_last_day, self.last_day) + 1), self.last_day)

    def snapshot_for(self, day: int) -> int | None:
        """Day through which the snapshot that logs `day` was trained; None when it does not exist yet."""
        if self.config.kind == "frozen":
            return self.config.teacher_days if day > self.config.teacher_days else None
        through = day - 1 - self.config.lag
        return through if through >= 1 else None

    def told_through(self, day: int) -> int | None:
        """As `snapshot_for`, where `day` is logged; None also on a day that no student reads, of which there is no log.

        Domain teachers train from day 1 whatever the students' first day is, and are told nothing until then.
        """
        return self.snapshot_for(day) if day in self.student_days() else None

    def logged_days(self) -> list[int]:
        """Days that students read, trained on or only predicted, and that a snapshot exists for."""
        return [day for day in self.student_days() if self.snapshot_for(day) is not None]

    def student_days(self) -> list[int]:
        """Days that students read, trained on or only predicted."""
        plan = self.student_plan()
        return sorted({*plan.train, *plan.predicted})


def _progressive(days: Sequence[int]) -> DayPlan:
    train = tuple(days)[:-1]
    return DayPlan(train, {day: (day + 1,) for day in train})


def _frozen(days: Sequence[int], last_day: int) -> DayPlan:
    train = tuple(day for day in days if day < last_day)
    if not train:
        raise UserError("schedule: no day left to train on before the days that are scored")
    predict = {day: (day + 1,) for day in train[:-1]}
    return DayPlan(train, predict | {train[-1]: tuple(range(train[-1] + 1, last_day + 1))})
