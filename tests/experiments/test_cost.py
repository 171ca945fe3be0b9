"""What a model costs: figures for people, and the day they are counted on."""

from __future__ import annotations

import pytest

from distill.config import ScheduleConfig
from distill.schedule import DayPlan, Schedule
from experiments.benchmarks.synthetic import make_batch
from experiments.pipeline.cost import ModelCost, counted_day, model_cost
from experiments.quantity import quantity
from tests.students.models import make_student, schema_of


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "0"),
        (12, "12"),
        (999, "999"),
        (999.6, "1 k"),
        (1234, "1.23 k"),
        (45_600_000, "45.6 M"),
        (2.5e9, "2.5 G"),
        (7e12, "7 T"),
        (1234e12, "1.23e+03 T"),
    ],
)
def test_quantities_have_three_digits(number: float, expected: str) -> None:
    assert quantity(number) == expected


def test_cost_counts_parameters_and_the_first_batch() -> None:
    schema = schema_of(dense=0)
    model = make_student("dcn_v2", schema, cross_layers=1, cross_rank=0, mlp=[5], structure="stacked")
    batches = [make_batch(schema, [0] * 3, seed=1), make_batch(schema, [0] * 9, seed=2)]
    width = 3 * 4
    weights = [width * width, width * 5, 5 * 2]
    biases = [width, 5, 2]
    rows = 7 + 5 + 3
    assert model_cost(model, batches) == ModelCost(
        dense_parameters=sum(weights) + sum(biases),
        table_parameters=rows * 4,
        forward_flops_per_example=2 * sum(weights),
        flops_per_example=6 * sum(weights),
    )


def test_cost_for_people() -> None:
    assert ModelCost(12_345, 1_000_000, 250_000, 740_000).shown() == {
        "dense parameters": "12.3 k",
        "in tables": "1 M",
        "FLOPs per example": "250 k forward, 740 k in training",
    }


@pytest.mark.parametrize(("train", "expected"), [((1, 2, 3, 4, 5), 3), ((1, 2, 5), 2), ((4, 5), 4)], ids=str)
def test_counted_on_the_last_day_before_the_tune_days(train: tuple[int, ...], expected: int) -> None:
    schedule = Schedule(ScheduleConfig(tune_days=[4, 5], test_days=[]), n_days=6)
    assert counted_day(schedule, DayPlan(train, {})) == expected
