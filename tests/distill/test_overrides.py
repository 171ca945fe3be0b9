"""`--set`: what it changes, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distill.experiment_files import BASE, experiment, load, problems, toy_registries


@pytest.fixture(autouse=True)
def _toys() -> Iterator[None]:
    with toy_registries():
        yield


def test_values_replace_those_of_the_file(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        BASE,
        "seeds=[3, 4]",
        "schedule.lag=2",
        "students.two.options.width=12",
        "students.one.verticals=['0']",
        "data.options.items=7",
        "teacher.optimizer.learning_rate=1e-4",
        "channels.more.own.weight=2",
    ).config
    assert config.seeds == [3, 4]
    assert config.schedule.lag == 2
    assert config.students[1].options["width"] == 12
    assert config.students[0].verticals == ["0"]
    assert config.data.options == {"items": 7}
    assert config.teacher is not None and config.teacher.optimizer.learning_rate == 1e-4
    assert config.channels["more"] == {"own": {"weight": 2.0}}


def test_a_domain_teacher_is_named_by_its_name(tmp_path: Path) -> None:
    content = experiment(domain_teachers=[{"name": "some", "architecture": "big", "verticals": ["feed"]}])
    config = load(tmp_path, content, "domain_teachers.some.options.width=12").config
    assert config.domain_teachers[0].options["width"] == 12
    (problem,) = problems(tmp_path, content, "domain_teachers.sime.options.width=12")
    assert "domain_teachers: got 'sime'; allowed: some. Did you mean 'some'?" in problem


def test_the_later_one_wins(tmp_path: Path) -> None:
    assert load(tmp_path, BASE, "threads=2", "threads=3").config.threads == 3


def test_a_mapping_replaces_a_mapping_whole(tmp_path: Path) -> None:
    config = load(tmp_path, BASE, "channels={mine: {own: {}}}").config
    assert list(config.channels) == ["none", "mine"]


def test_a_null_section_can_be_opened(tmp_path: Path) -> None:
    config = load(tmp_path, experiment(teacher=None), "teacher.architecture=big").config
    assert config.teacher is not None and config.teacher.architecture == "big"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "threads",
            "--set threads: key: got 'threads'; allowed: KEY=VALUE with a dotted key, such as schedule.lag=2 "
            "or seeds=[0,1].",
        ),
        ("a..b=1", "--set a..b=1: key: got 'a..b=1'; allowed: KEY=VALUE with a dotted key"),
        ("=1", "--set =1: key: got '=1'; allowed: KEY=VALUE"),
        ("thread=1", "--set thread=1: thread: got an unknown key; allowed: name, output,"),
        ("threads=", "--set threads=: threads: got null; allowed: a whole number."),
        ("threads=two", "--set threads=two: threads: got 'two'; allowed: a whole number."),
        ("threads=!!int 2", "--set threads=!!int 2: YAML: got the tag tag:yaml.org,2002:int;"),
        ("seeds=[0", "--set seeds=[0: YAML: got text that cannot be read: expected ',' or ']'"),
        ("seeds=3", "--set seeds=3: seeds: got 3; allowed: a list of whole numbers. Write [3]."),
        (
            "students.ones.tasks=[]",
            "--set students.ones.tasks=[]: students: got 'ones'; allowed: one, two. Did you mean 'one'?",
        ),
        ("students=[]", "--set students=[]: key: got 'students'; allowed: students.<name>.<key>, such as"),
        ("students.one=1", "--set students.one=1: key: got 'students.one'; allowed: students.<name>.<key>"),
        (
            "seeds.0=1",
            "--set seeds.0=1: seeds: got a key below [0, 1]; allowed: seeds=VALUE, replaced whole.",
        ),
        ("name.x=1", "--set name.x=1: name: got a key below 'trial'; allowed: name=VALUE, replaced whole."),
        ("threads.x=1", "--set threads.x=1: threads: got a mapping; allowed: a whole number."),
        (
            "students.one.options.widht=8",
            "--set students.one.options.widht=8: students[0] (one).options.widht: got an unknown key;",
        ),
    ],
)
def test_refused(tmp_path: Path, override: str, message: str) -> None:
    (problem,) = problems(tmp_path, BASE, override)
    assert problem.startswith(message)
