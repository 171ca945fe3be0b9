"""Days of teacher, log and students, against PROTOCOL.md's words."""

import pytest

from distill.config import ScheduleConfig
from distill.errors import UserError
from distill.schedule import Schedule


def test_progressive_run_leaves_the_test_days_alone():
    plan = Schedule(ScheduleConfig(), n_days=14).teacher_plan()
    assert plan.train == tuple(range(1, 11))
    assert plan.predicted == tuple(range(2, 12))


def test_final_progressive_run_predicts_each_day_before_training_on_it():
    plan = Schedule(ScheduleConfig(), n_days=14, final=True).student_plan()
    assert plan.train == tuple(range(1, 14))
    assert all(days == (trained + 1,) for trained, days in plan.predict_after.items())


def test_lag_one_logs_a_day_by_the_snapshot_two_days_older():
    schedule = Schedule(ScheduleConfig(lag=1), n_days=14)
    assert schedule.snapshot_for(9) == 7
    assert schedule.snapshot_for(2) is None
    assert schedule.logged_days() == list(range(3, 12))


def test_nothing_is_told_on_days_that_no_student_reads():
    """Of lag 1: the snapshot of day 1 could log day 3, and students begin on day 5."""
    schedule = Schedule(ScheduleConfig(lag=1, student_first_day=5), n_days=14)
    assert [schedule.told_through(day) for day in range(1, 8)] == [None] * 4 + [3, 4, 5]
    assert schedule.logged_days() == list(range(5, 12))


def test_lag_zero_logs_by_the_day_before():
    assert Schedule(ScheduleConfig(lag=0), n_days=14).snapshot_for(9) == 8


def test_frozen_teacher_stops_after_day_seven_and_predicts_the_rest():
    plan = Schedule(ScheduleConfig(kind="frozen"), n_days=14, final=True).teacher_plan()
    assert plan.train == tuple(range(1, 8))
    assert plan.predict_after[7] == tuple(range(8, 15))


def test_frozen_students_train_on_eight_to_eleven_and_stay_as_they_are():
    schedule = Schedule(ScheduleConfig(kind="frozen"), n_days=14, final=True)
    plan = schedule.student_plan()
    assert plan.train == (8, 9, 10, 11)
    assert plan.predict_after == {8: (9,), 9: (10,), 10: (11,), 11: (12, 13, 14)}
    assert {schedule.snapshot_for(day) for day in schedule.logged_days()} == {7}


def test_splits():
    schedule = Schedule(ScheduleConfig(), n_days=14)
    assert [schedule.split(day) for day in (8, 9, 11, 12, 14)] == ["train", "tune", "tune", "test", "test"]
    assert schedule.scored_days == {"tune": [9, 10, 11]}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"kind": "weekly"}, "progressive, frozen"),
        ({"lag": -1}, "schedule.lag"),
        ({"tune_days": []}, "schedule.tune_days"),
        ({"tune_days": [9, 99]}, "days 2 to 14"),
        ({"test_days": [11, 12]}, "after the tune days"),
    ],
)
def test_bad_schedules_are_refused(change, word):
    with pytest.raises(UserError, match=word):
        Schedule(ScheduleConfig(**change), n_days=14)


def test_final_without_test_days_is_refused():
    with pytest.raises(UserError, match="--final"):
        Schedule(ScheduleConfig(test_days=[]), n_days=14, final=True)


def test_days_without_rows_are_neither_trained_on_nor_predicted():
    plan = Schedule(ScheduleConfig(), n_days=14).student_plan().only([1, 2, 4, 7, 9, 10, 11])
    assert plan.train == (1, 2, 4, 7, 9, 10)
    assert plan.predict_after == {1: (2,), 2: (4,), 4: (7,), 7: (9,), 9: (10,), 10: (11,)}


def test_frozen_students_days_without_rows():
    plan = Schedule(ScheduleConfig(kind="frozen"), n_days=14, final=True).student_plan().only([8, 9, 13, 14])
    assert plan.train == (8, 9)
    assert plan.predict_after == {8: (9,), 9: (13, 14)}


def test_first_day_with_rows_is_not_predicted():
    plan = Schedule(ScheduleConfig(), n_days=14).student_plan().only([10, 11])
    assert plan.train == (10,) and plan.predict_after == {10: (11,)}
