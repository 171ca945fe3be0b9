"""The meaning of the schedule: kinds, ranges, days that exist, tune before test. Free of torch."""

from __future__ import annotations

from distill.checks import check_at_least, check_unique
from distill.config import ScheduleConfig
from distill.errors import nearest
from distill.findings import Findings, show
from distill.schedule import KINDS

PATH = ("schedule",)


def check_schedule(schedule: ScheduleConfig, n_days: int | None, findings: Findings) -> None:
    """Report what is wrong with the days.

    Args:
        schedule: of the experiment.
        n_days: days of the data set; None when they are not known before it is prepared.
        findings: gets the problems.
    """
    if schedule.kind not in KINDS:
        findings.add((*PATH, "kind"), show(schedule.kind), ", ".join(KINDS), nearest(schedule.kind, KINDS))
        return
    check_at_least(schedule.student_first_day, 0, (*PATH, "student_first_day"), findings)
    if not schedule.tune_days:
        findings.add((*PATH, "tune_days"), "an empty list", "at least one day, such as [9, 10, 11]")
    for key, days in (("tune_days", schedule.tune_days), ("test_days", schedule.test_days)):
        check_unique(days, (*PATH, key), findings)
        _check_days(days, n_days, (*PATH, key), findings)
    if schedule.tune_days and schedule.test_days and min(schedule.test_days) <= max(schedule.tune_days):
        after = f"days after the tune days {schedule.tune_days}, or settings would be chosen on the test"
        findings.add((*PATH, "test_days"), str(schedule.test_days), after)
    check_at_least(schedule.lag, 0, (*PATH, "lag"), findings)
    if schedule.tune_days and not findings.touches((*PATH, "tune_days")):
        if schedule.kind == "progressive":
            _check_progressive(schedule, n_days, findings)
        else:
            _check_frozen(schedule, findings)


def _check_days(days: list[int], n_days: int | None, path: tuple[str, str], findings: Findings) -> None:
    """Every day is one of the data set's, and has one before it; several that are not are told as one."""
    outside = [day for day in days if day < 2 or (n_days is not None and day > n_days)]
    if n_days is None:
        allowed = "day 2 or later"
    elif n_days < 2:
        allowed = f"a data set of several days: this one has {n_days}"
    else:
        allowed = f"day 2 to {n_days}, the last day of the data set"
    hint = f"{days} is the default." if days == getattr(ScheduleConfig(), path[-1]) else ""
    if len(outside) == 1:
        findings.add((*path, days.index(outside[0])), f"day {outside[0]}", allowed, hint)
    elif outside:
        findings.add(path, f"days {', '.join(map(str, outside))}", allowed, hint)


def _check_progressive(schedule: ScheduleConfig, n_days: int | None, findings: Findings) -> None:
    first_tune, last_tune = min(schedule.tune_days), max(schedule.tune_days)
    # Day t is logged by the snapshot through day t - 1 - lag, and the first snapshot is day 1's.
    needed = 3 + schedule.lag
    if last_tune < needed:
        ways = [f"at most {last_tune - 3}"] if last_tune >= 3 else []
        if n_days is None or n_days >= needed:
            ways.append(f"a last tune day from {needed} on")
        allowed = " or ".join(ways) or f"a data set of at least 3 days: this one has {n_days}"
        got = f"{schedule.lag} with the last tune day {last_tune}"
        findings.add((*PATH, "lag"), got, f"{allowed}; else no student trains on a day that was logged")
    if schedule.student_first_day >= first_tune:
        allowed = f"a day before the first tune day, {first_tune}"
        findings.add((*PATH, "student_first_day"), f"day {schedule.student_first_day}", allowed)


def _check_frozen(schedule: ScheduleConfig, findings: Findings) -> None:
    first_tune = min(schedule.tune_days)
    check_at_least(schedule.teacher_days, 1, (*PATH, "teacher_days"), findings)
    first = schedule.student_first_day or schedule.teacher_days + 1
    if not schedule.teacher_days < first < first_tune:
        key = "student_first_day" if schedule.student_first_day else "teacher_days"
        allowed = (
            f"in this order: the teacher's days, the students' first ({first}), the tune days ({first_tune}…)"
        )
        findings.add((*PATH, key), f"day {getattr(schedule, key)}", allowed)
    if schedule.student_last_day < first:
        findings.add((*PATH, "student_last_day"), f"day {schedule.student_last_day}", f"day {first} or later")
    if schedule.test_days and schedule.student_last_day >= min(schedule.test_days):
        allowed = f"a day before the first test day, {min(schedule.test_days)}"
        findings.add((*PATH, "student_last_day"), f"day {schedule.student_last_day}", allowed)
