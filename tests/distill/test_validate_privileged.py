"""A teacher of privileged features must read something that its student lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import experiments.catalog  # noqa: F401  fills the registries
from distill.config import StudentConfig, TeacherConfig
from distill.errors import ConfigErrors
from distill.findings import Findings
from distill.load_config import load_config
from distill.schema import FeatureSchema
from distill.strict_yaml import Document
from distill.validate_privileged import check_privileged
from experiments.benchmarks.synthetic import make_schema

SCHEMA = make_schema([7, 5, 3], dense=2, content={"image": 4})
"""item_id, feature_1, feature_2; dense_0, dense_1; image."""

DEMO = Path(__file__).parents[2] / "experiments" / "demo.yaml"
SAME: dict[str, Any] = {"options": {"history_length": 10}}


def found(
    student: dict[str, Any], teacher: dict[str, Any], schema: FeatureSchema | None = SCHEMA
) -> list[str]:
    """Problems with a student and a teacher of these settings."""
    findings = Findings()
    findings.place((), Document("trial.yaml", {}, Path()))
    pupil = StudentConfig(name="small", **(SAME | student))
    check_privileged(
        pupil, TeacherConfig(name="big", **(SAME | teacher)), schema, ("channels", "pfd"), findings
    )
    try:
        findings.raise_any()
    except ConfigErrors as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ({"features": ["item_id", "feature_1"]}, {}),
        ({"features": ["item_id"]}, {"features": ["item_id", "feature_2"]}),
        ({"dense": ["dense_0"]}, {}),
        ({"dense": ["dense_0"]}, {"dense": ["dense_1"]}),
        ({}, {"content": ["image"]}),
        ({}, {"options": {"history_length": 11}}),
        ({"options": {"history_length": 0}}, {"options": {"history_length": 1}}),
    ],
)
def test_one_more_input_is_enough(student: dict[str, Any], teacher: dict[str, Any]) -> None:
    assert found(student, teacher) == []


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ({}, {}),
        ({}, {"features": ["item_id"], "dense": ["dense_0"]}),
        ({"features": ["item_id", "feature_1"]}, {"features": ["item_id"]}),
        ({"features": ["feature_2", "feature_1", "item_id"]}, {}),
        ({"dense": ["dense_1", "dense_0"]}, {}),
        ({"content": ["image"]}, {"content": ["image"]}),
        ({"options": {"history_length": 11}}, {}),
    ],
)
def test_no_more_input_is_refused(student: dict[str, Any], teacher: dict[str, Any]) -> None:
    (problem,) = found(student, teacher)
    assert problem.startswith(
        "trial.yaml: channels.pfd: got privileged features for 'small', whose teacher 'big'"
    )


def test_the_message_names_what_both_read() -> None:
    (problem,) = found(
        {"features": ["item_id", "feature_1"], "dense": ["dense_0"]},
        {"features": ["item_id"], "dense": ["dense_0"]},
    )
    assert (
        "the student reads features item_id, feature_1, dense dense_0, content none, history 10; the teacher features "
        "item_id, dense dense_0, content none, history 10; allowed: a teacher with a feature, dense feature, content "
        "or a longer history that the student lacks, or the channel `single`."
    ) in problem


@pytest.mark.parametrize("student", [{"features": ["item_id"]}, {"dense": ["dense_0"]}])
def test_all_features_of_an_unknown_schema_may_be_more(student: dict[str, Any]) -> None:
    assert found(student, {}, schema=None) == []
    assert len(found({}, {}, schema=None)) == 1


@pytest.mark.parametrize("side", [0, 1])
def test_a_history_that_the_options_do_not_say_may_be_longer(side: int) -> None:
    sides: list[dict[str, Any]] = [{}, {}]
    sides[side] = {"options": {}}
    assert found(sides[0], sides[1]) == []


def test_an_experiment_with_it() -> None:
    """The demo's teacher reads a history; one student is given as long a one, and all features as it is."""
    asked = ["channels.p={pfd: {}}", "channels.p.pfd.warmup_examples=10"]
    loaded = load_config(DEMO, asked)
    assert loaded.config.channels["p"]["pfd"]["warmup_examples"] == 10
    teacher = loaded.config.teacher
    assert teacher is not None
    length = teacher.options["history_length"]
    assert length > 0
    alike = [f"students.{student.name}.options.history_length={length}" for student in loaded.config.students]
    with pytest.raises(
        ConfigErrors, match="channels.p.pfd: got privileged features for 'deepfm', whose teacher"
    ):
        load_config(DEMO, [*asked, *alike])
