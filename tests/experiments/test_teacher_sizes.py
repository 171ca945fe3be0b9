"""gem-xs to gem-xl: each costs 3 to 4 times the one before, over two decades; one of them in an experiment."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import yaml

import experiments.catalog  # noqa: F401  fills the registries
from distill.flops import Flops, count
from distill.load_config import load_config, load_teacher
from experiments.benchmarks.synthetic import make_batch, make_schema
from experiments.pipeline.build import build_model

TEACHERS = Path(__file__).parents[2] / "experiments" / "teachers"
SIZES = ("gem-xs", "gem-s", "gem-m", "gem-l", "gem-xl")
SCHEMA = make_schema([50] * 15, dense=5, tasks=("click", "conversion"))
"""As many features as the simulator has."""


def flops_of(size: str) -> Flops:
    config = load_teacher(TEACHERS / f"{size}.yaml")
    model = build_model("teacher", config, config.optimizer, SCHEMA, 0, TEACHERS)
    # Histories are as long as the teacher reads, up to those that the simulator's users have.
    lengths = torch.full((2,), model.history_length).clamp_max(90)
    return count(model, make_batch(SCHEMA, lengths, seed=1))


def test_each_size_costs_three_to_four_times_the_one_before() -> None:
    per_example = [flops_of(size).per_example for size in SIZES]
    factors = [large / small for small, large in pairwise(per_example)]
    assert all(2.9 < factor < 4.2 for factor in factors), factors
    assert per_example[-1] > 100 * per_example[0]


def test_an_experiment_takes_a_size_and_changes_it(tmp_path: Path) -> None:
    content = {
        "name": "sizes",
        "output": str(tmp_path / "out"),
        "teacher": {"file": str(TEACHERS / "gem-s.yaml")},
    }
    (tmp_path / "sizes.yaml").write_text(yaml.safe_dump(content))
    teacher = load_config(tmp_path / "sizes.yaml", ["teacher.options.history_length=400"]).config.teacher
    alone = load_teacher(TEACHERS / "gem-s.yaml")
    assert teacher is not None and teacher.name == "gem-s"
    assert teacher.options == {**alone.options, "history_length": 400}
