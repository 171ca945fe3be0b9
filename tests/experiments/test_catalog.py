"""Every architecture in either role: found by name, checked, built, run; its inputs told right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import experiments.catalog  # noqa: F401  fills the registries
from distill.config import OptimizerConfig, StudentConfig, TeacherConfig
from distill.dataset import DataSet
from distill.errors import ConfigErrors
from distill.load_config import load_config
from distill.registry import STUDENTS, TEACHERS
from distill.schedule import Schedule
from experiments.benchmarks.synthetic import make_batch, make_schema
from experiments.pipeline.build import build_model
from experiments.pipeline.experiment import Experiment

DEMO = Path(__file__).parents[2] / "experiments" / "demo.yaml"
HISTORY = {"gem": "rich", "din": "rich", "dlrm": "thin", "deepfm": "thin", "dcn_v2": "thin"}
"""What each reads when nothing is set."""


@pytest.mark.parametrize("name", sorted(HISTORY))
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_every_architecture_takes_either_role(role: str, name: str) -> None:
    config: TeacherConfig | StudentConfig = TeacherConfig(architecture=name)
    if role == "student":
        config = StudentConfig(name="one", architecture=name, verticals=["surface_0"])
    schema = make_schema([20, 10], dense=2, tasks=("click", "conversion"))
    model = build_model(role, config, OptimizerConfig(), schema, 0, Path())
    logits = model(make_batch(schema, [3, 0, 5], seed=0)).logits
    assert logits.shape == (3, 2) and torch.isfinite(logits).all()
    rates = torch.tensor([0.2, torch.nan, torch.nan], dtype=torch.float64)
    model.set_base_rates({"click": rates, "conversion": rates})  # one surface alone, as a student sees


def test_both_roles_know_the_same_names() -> None:
    assert list(TEACHERS) == list(STUDENTS) == sorted(HISTORY)


@pytest.mark.parametrize(("name", "inputs"), HISTORY.items())
def test_cells_say_whether_a_history_is_read(name: str, inputs: str, tmp_path: Path) -> None:
    arguments = [f"teacher={{architecture: {name}}}", f"students.feed_dlrm.architecture={name}"]
    loaded = load_config(DEMO, [*arguments, "students.feed_dlrm.options={}"])
    assert loaded.schema is not None
    data = DataSet(tmp_path, loaded.schema, "simulator", "", {})
    experiment = Experiment(loaded.config, "", loaded.base, data, Schedule(loaded.config.schedule, 14))
    assert experiment.teacher_cell is not None and experiment.teacher_cell.inputs == inputs
    assert {cell.inputs for cell in experiment.student_cells if cell.model == "feed_dlrm"} == {inputs}


def test_settings_of_a_peer_are_checked_in_the_teachers_role() -> None:
    with pytest.raises(ConfigErrors, match="teacher.options.atention: got an unknown key.*'attention'"):
        load_config(DEMO, ["teacher={architecture: din, options: {atention: [4]}}"])
