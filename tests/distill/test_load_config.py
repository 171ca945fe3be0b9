"""Loading an experiment: everything wrong at once, students' files, what is resolved, the hash."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.config import ExperimentConfig, StudentConfig
from distill.errors import ConfigErrors
from distill.load_config import load_config, load_student, load_teacher
from tests.distill.experiment_files import BASE, experiment, load, problems, toy_registries


@pytest.fixture(autouse=True)
def _toys() -> Iterator[None]:
    with toy_registries():
        yield


BROKEN = """\
name: trial
seeds: [0, 1, 1]
tacher: {}
data: {source: tos, cache: [x]}
teacher:
  architecture: bigg
  optimizer:
    learning_rate: 0
    batch_size: many
students:
  - name: one
    verticals: [feed]
    architecture: small
    options:
      widht: 3
      inner: {depth: 1.5}
  - name: one
    architecture: small
    channels: [ah, ahh]
  - 3
channels:
  ah: {sofd: {}}
schedule: {kind: progresive}
"""


def test_every_problem_of_a_file_at_once(tmp_path: Path) -> None:
    top = ", ".join(field.name for field in dataclasses.fields(ExperimentConfig))
    student = ", ".join(field.name for field in dataclasses.fields(StudentConfig))
    assert problems(tmp_path, BROKEN, "students.two.options={}", "threads=0") == [
        "--set students.two.options={}: students: got 'two'; allowed: one.",
        "--set threads=0: threads: got 0; allowed: at least 1.",
        "trial.yaml:1: output: got nothing; allowed: text. The key is required.",
        "trial.yaml:2: seeds[2]: got 1 a second time; allowed: every value once.",
        f"trial.yaml:3: tacher: got an unknown key; allowed: {top}. Did you mean 'teacher'?",
        "trial.yaml:4: data.cache: got ['x']; allowed: text.",
        "trial.yaml:4: data.source: got 'tos'; allowed: files, toy. Did you mean 'toy'?",
        "trial.yaml:6: teacher.architecture: got 'bigg'; allowed: big, path/to/file.py:Class. "
        "Did you mean 'big'?",
        "trial.yaml:8: teacher.optimizer.learning_rate: got 0.0; allowed: a number above 0.",
        "trial.yaml:9: teacher.optimizer.batch_size: got 'many'; allowed: a whole number.",
        "trial.yaml:15: students[0] (one).options.widht: got an unknown key; allowed: width, layers, rate, "
        "mode, inner. Did you mean 'width'?",
        "trial.yaml:16: students[0] (one).options.inner.depth: got 1.5; allowed: a whole number.",
        "trial.yaml:17: students[1] (one).name: got 'one' a second time; allowed: every value once.",
        "trial.yaml:17: students[1] (one).verticals: got nothing; allowed: at least one surface of the "
        "data set.",
        "trial.yaml:19: students[1] (one).channels[1]: got 'ahh'; allowed: none, ah: the experiment's channel "
        "sets. Did you mean 'ah'?",
        f"trial.yaml:20: students[2]: got 3; allowed: a mapping with keys {student}.",
        "trial.yaml:22: channels.ah.sofd: got 'sofd'; allowed: own, soft. Did you mean 'soft'?",
        "trial.yaml:23: schedule.kind: got 'progresive'; allowed: progressive, frozen. "
        "Did you mean 'progressive'?",
    ]


def test_defaults_are_filled_in(tmp_path: Path) -> None:
    loaded = load(tmp_path, BASE)
    one, two = loaded.config.students
    width_8 = {"width": 8, "layers": [4, 2], "rate": 0.0, "mode": "sum", "inner": {"depth": 2}}
    assert one.options == width_8 and two.options == width_8 | {"width": 16}
    assert one.channels == ["none", "ah"]
    assert loaded.config.channels == {"none": {}, "ah": {"soft": {"weight": 0.5}}}
    assert two.verticals == ["feed", "0"]
    assert loaded.schema is not None and loaded.schema.n_days == 8
    assert loaded.base == tmp_path


def test_none_comes_first_whatever_the_student_says(tmp_path: Path) -> None:
    loaded = load(tmp_path, experiment(students__0__channels=["ah", "none"], students__1__channels=["none"]))
    assert [student.channels for student in loaded.config.students] == [["none", "ah"], ["none"]]


def test_the_resolved_config_loads_to_the_same(tmp_path: Path) -> None:
    loaded = load(tmp_path, BASE)
    again = load(tmp_path, loaded.to_yaml())
    assert again.config == loaded.config
    assert again.config_hash == loaded.config_hash
    assert len(loaded.config_hash) == 64


def test_hash_ignores_the_order_of_keys_and_sees_values(tmp_path: Path) -> None:
    loaded = load(tmp_path, BASE)
    turned = dict(reversed(BASE.items()))
    assert load(tmp_path, turned).config_hash == loaded.config_hash
    assert load(tmp_path, BASE, "students.one.optimizer.batch_size=256").config_hash != loaded.config_hash


def test_a_student_in_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "three.yaml").write_text("name: three\narchitecture: small\nverticals: [0]\n")
    content = experiment()
    content["students"].append({"file": "more/three.yaml"})
    loaded = load(tmp_path, content, "students.three.options.width=12")
    assert loaded.config.students[2].verticals == ["0"]
    assert loaded.config.students[2].options["width"] == 12


def test_a_teacher_in_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "net.py").write_text(ARCHITECTURE)
    (tmp_path / "more" / "own.yaml").write_text(
        "name: own\narchitecture: net.py:Net\noptions: {a: 1, b: 2}\n"
    )
    loaded = load(tmp_path, experiment(teacher={"file": "more/own.yaml"}), "teacher.options.a=12")
    teacher = loaded.config.teacher
    assert teacher is not None and (teacher.name, teacher.options) == ("own", {"a": 12, "b": 2})
    assert teacher.architecture == f"{tmp_path}/more/net.py:Net"
    assert load(tmp_path, loaded.to_yaml()).config == loaded.config


def test_a_problem_in_a_teachers_file_names_that_file(tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_text("name: large\narchitecture: big\noptions:\n  widht: 4\n")
    (message,) = problems(tmp_path, experiment(teacher={"file": "large.yaml"}))
    assert message.startswith("large.yaml:4: teacher.options.widht: got an unknown key; allowed: width, ")
    (tmp_path / "large.yaml").write_text("name: [\n")
    (message,) = problems(tmp_path, experiment(teacher={"file": "large.yaml"}))
    assert message.startswith("large.yaml:2: YAML: got ")


def test_a_problem_in_a_students_file_names_that_file(tmp_path: Path) -> None:
    (tmp_path / "three.yaml").write_text(
        "name: three\narchitecture: small\nverticals: [feed]\ntask: [click]\n"
    )
    (tmp_path / "four.yaml").write_text("name: [\n")
    content = experiment(students=[{"file": "three.yaml"}, {"file": "four.yaml"}])
    unknown, unreadable = problems(tmp_path, content)
    assert unknown.startswith("three.yaml:4: students[0] (three).task: got an unknown key; allowed: name, ")
    assert unknown.endswith("Did you mean 'tasks'?")
    assert unreadable.startswith("four.yaml:2: YAML: got ")


def test_a_file_of_the_other_kind_is_one_problem(tmp_path: Path) -> None:
    model, whole = tmp_path / "model.yaml", tmp_path / "whole.yaml"
    model.write_text("name: three\narchitecture: small\nverticals: [feed]\n")
    whole.write_text("name: trial\noutput: out\nstudents: []\n")
    with pytest.raises(
        ConfigErrors, match="model.yaml: file: got a model's own file; allowed: an experiment file"
    ):
        load_config(model)
    with pytest.raises(
        ConfigErrors, match="whole.yaml: file: got an experiment file; allowed: a student's own file"
    ):
        load_student(whole)


@pytest.mark.parametrize(
    ("student", "got"),
    [
        ({"file": "nowhere.yaml"}, "the file 'nowhere.yaml', which is not there"),
        ({"file": 3}, "the file 3, which is not there"),
        ({"file": "x" * 5000}, f"the file '{'x' * 59}…, which is not there"),
        ({"file": "a.yaml", "name": "a"}, "name beside `file`"),
    ],
)
def test_a_students_or_teachers_file_that_cannot_be_taken(
    tmp_path: Path, student: dict[str, Any], got: str
) -> None:
    (message,) = problems(tmp_path, experiment(students__0=student))
    assert message.startswith("trial.yaml:") and f"students[0]: got {got}; allowed: " in message
    (message,) = problems(tmp_path, experiment(teacher=student))
    assert message.startswith("trial.yaml:") and f"teacher: got {got}; allowed: " in message


@pytest.mark.parametrize(
    ("text", "got"),
    [("", "an empty file"), ("- 1\n", "[1]"), ("name\n", "'name'"), ("# nothing\n", "an empty file")],
)
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str, got: str) -> None:
    assert problems(tmp_path, text) == [
        f"trial.yaml: file: got {got}; allowed: a mapping of `key: value` lines."
    ]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match="no such file"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigErrors, match="got a folder"):
        load_config(tmp_path)


ARCHITECTURE = "raise SystemExit('executed')\n\nclass Net:\n    pass\n"


def test_a_users_architecture_is_checked_and_not_executed(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "net.py").write_text(ARCHITECTURE)
    student = "name: three\narchitecture: net.py:Net\nverticals: [feed]\noptions: {anything: 1}\n"
    (tmp_path / "more" / "three.yaml").write_text(student)
    loaded = load(tmp_path, experiment(students=[{"file": "more/three.yaml"}]))
    assert loaded.config.students[0].architecture == f"{tmp_path}/more/net.py:Net"
    assert loaded.config.students[0].options == {"anything": 1}
    (message,) = problems(tmp_path, experiment(teacher__architecture="more/net.py:Nett"))
    assert message.startswith("trial.yaml:") and "defines no class 'Nett'. Did you mean 'Net'?" in message


def test_a_users_architecture_enters_the_hash_by_its_text(tmp_path: Path) -> None:
    hashes = []
    for name, text in (("a", ARCHITECTURE), ("b", ARCHITECTURE), ("c", ARCHITECTURE + "# other\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "net.py").write_text(text)
        hashes.append(load(tmp_path / name, experiment(teacher__architecture="net.py:Net")).config_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_start_enters_the_hash_by_its_content(tmp_path: Path) -> None:
    """One file for all seeds, and one for each."""
    for start in ("start", "start-{seed}"):
        hashes = []
        for name, text in (("a", "june"), ("b", "june"), ("c", "june again")):
            (tmp_path / name).mkdir(exist_ok=True)
            for file in ("start", "start-0", "start-1"):
                (tmp_path / name / file).write_text("june" if file == "start-0" else text)
            changed = experiment(seeds=[0, 1], teacher__start=str(tmp_path / name / start))
            hashes.append(load(tmp_path, changed).config_hash)
        assert hashes[0] == hashes[1] != hashes[2]


def test_a_students_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "three.yaml"
    path.write_text("name: three\narchitecture: small\nverticals: [feed]\n")
    assert load_student(path).options["width"] == 8
    path.write_text("name: three\narchitecture: small\noptions: {width: 3}\n")
    with pytest.raises(ConfigErrors) as caught:
        load_student(path)
    assert [problem.key for problem in caught.value.problems] == ["verticals", "options"]


def test_a_teachers_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_text("name: large\narchitecture: big\noptions: {width: 16}\n")
    teacher = load_teacher(path)
    assert (teacher.name, teacher.options["width"], teacher.options["rate"]) == ("large", 16, 0.0)
    path.write_text("architecture: bigg\noptimizer: {learning_rate: 0}\ncompute: {precision: fp16}\n")
    with pytest.raises(ConfigErrors) as caught:
        load_teacher(path)
    assert [str(problem).partition(": ")[2] for problem in caught.value.problems] == [
        "architecture: got 'bigg'; allowed: big, path/to/file.py:Class. Did you mean 'big'?",
        "optimizer.learning_rate: got 0.0; allowed: a number above 0.",
        "compute.precision: got 'fp16'; allowed: fp32, bf16. Did you mean 'bf16'?",
    ]


def paths(content: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a plain value but the top."""
    items = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for key, value in items:
        yield (*prefix, key)
        yield from paths(value, (*prefix, key))


FULL = experiment(
    data={"source": "toy", "root": None, "cache": "c", "prehistory": False, "options": {"items": 5}},
    schedule={"kind": "frozen", "lag": 1, "teacher_days": 3, "tune_days": [5, 6], "test_days": [7, 8]},
    students__0__options={"width": 4, "layers": [1], "rate": 0.5, "mode": "mean", "inner": {"depth": 3}},
    students__0__optimizer={"learning_rate": 0.1, "batch_size": 4},
    students__0__tasks=["click"],
)
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.sampled_from(["", "???", "${x}", "none", "a.b", "x.py:Y", "\0", "é", "yes", "1e400"]),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
    st.lists(st.one_of(st.integers(), st.text(max_size=3), st.none()), max_size=3),
    st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.text(max_size=3)), max_size=2),
)


@settings(max_examples=100)
@given(data=st.data())
def test_a_mutated_config_loads_or_tells_its_problems(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = copy.deepcopy(FULL)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(paths(content))))
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        if data.draw(st.booleans()):
            inner[path[-1]] = data.draw(JUNK)
        elif isinstance(inner, dict):
            inner[data.draw(st.text(max_size=4))] = inner.pop(path[-1])
    folder = tmp_path_factory.getbasetemp()
    for message in problems(folder, yaml.safe_dump(content, allow_unicode=True)):
        assert message.startswith("trial.yaml")
