"""The meaning of an experiment, one mistake at a time: place, what was got, what is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.distill.experiment_files import experiment, load, problems, toy_registries


@pytest.fixture(autouse=True)
def _toys() -> Iterator[None]:
    with toy_registries():
        yield


FROZEN = {"kind": "frozen", "teacher_days": 3, "student_last_day": 6, "tune_days": [5, 6], "test_days": [7]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"name": "my trial"},
            "name: got 'my trial'; allowed: letters, digits and _ + -, a letter or digit first.",
        ),
        ({"name": True}, "name: got true; allowed: text."),
        ({"name": "???"}, "name: got '???'; allowed: text. A value is needed here."),
        ({"output": ""}, "output: got ''; allowed: a folder."),
        (
            {"output": "${oc.env:HOME}"},
            "output: got '${oc.env:HOME}'; allowed: plain values, without ${...}.",
        ),
        ({"seeds": []}, "seeds: got an empty list; allowed: at least one seed, such as [0]."),
        ({"seeds": [-1]}, "seeds[0]: got -1; allowed: 0 to 4294967295."),
        ({"seeds": [0, "a"]}, "seeds[1]: got 'a'; allowed: a whole number."),
        ({"seeds": [0, True]}, "seeds[1]: got true; allowed: a whole number."),
        ({"seeds": [1.0]}, "seeds[0]: got 1.0; allowed: a whole number."),
        ({"threads": 0}, "threads: got 0; allowed: at least 1."),
        ({"workers": -1}, "workers: got -1; allowed: at least 0."),
        ({"wandb": {"project": " "}}, "wandb.project: got ' '; allowed: a project name."),
        ({"wandb": {"enabled": "yes"}}, "wandb.enabled: got 'yes'; allowed: true or false."),
        ({"students": {}}, "students: got an empty mapping; allowed: a list of mappings."),
        ({"teacher": None, "students": []}, "students: got no student and no teacher; allowed: a teacher, "),
        ({"students__0__name": "a.b"}, "students[0] (a.b).name: got 'a.b'; allowed: letters, digits"),
        ({"channels__a/b": {}}, "channels.a/b: got 'a/b'; allowed: letters, digits"),
        ({"channels__ah": None}, "channels.ah: got null; allowed: a mapping. Write {} for the defaults."),
        (
            {"channels__none": {"own": {}}},
            "channels.none: got a mapping; allowed: {}: `none` is the set without",
        ),
        (
            {"channels__ah": {"soft": {"weigth": 1}}},
            "channels.ah.soft.weigth: got an unknown key; allowed: weight.",
        ),
        (
            {"students__0__channels": ["soft"]},
            "students[0] (one).channels[0]: got 'soft'; allowed: none, ah: the experiment's channel sets. Make a set "
            "of the channel: `channels: {soft: {soft: {}}}` in the experiment.",
        ),
        ({"students__0__channels": ["ah", "ah"]}, "students[0] (one).channels[1]: got 'ah' a second time;"),
        (
            {"students__0__verticals": ["feed", "feed"]},
            "students[0] (one).verticals[1]: got 'feed' a second time;",
        ),
        (
            {"students__0__channel_optimizers": {"ahh": {}}},
            "students[0] (one).channel_optimizers.ahh: got 'ahh'; allowed: none, ah. Did you mean 'ah'?",
        ),
        (
            {"students__0__channel_optimizers": {"ah": {"batch_size": 0}}},
            "students[0] (one).channel_optimizers.ah.batch_size: got 0; allowed: at least 1.",
        ),
        ({"teacher__name": "a b"}, "teacher.name: got 'a b'; allowed: letters, digits"),
        ({"teacher__options": {"width": 6}}, "teacher.options: width: got 6, allowed: a multiple of 4"),
        (
            {"teacher__options": {"rate": float("inf")}},
            "teacher.options.rate: got inf; allowed: a finite number.",
        ),
        (
            {"teacher__options": {"mode": "men"}},
            "teacher.options.mode: got 'men'; allowed: sum, mean. Did you mean",
        ),
        (
            {"teacher__options": {"layers": 3}},
            "teacher.options.layers: got 3; allowed: a list of whole numbers.",
        ),
        (
            {"teacher__options": {"inner": 3}},
            "teacher.options.inner: got 3; allowed: a mapping with keys depth.",
        ),
        (
            {"teacher__optimizer": {"clip_norm": -0.5}},
            "teacher.optimizer.clip_norm: got -0.5; allowed: at least 0.",
        ),
        (
            {"teacher__optimizer": {"weight_decay": -1}},
            "teacher.optimizer.weight_decay: got -1.0; allowed: at least",
        ),
        (
            {"teacher__optimizer": {"batch_size": 0}},
            "teacher.optimizer.batch_size: got 0; allowed: at least 1.",
        ),
        (
            {"teacher__optimizer": {"table_learning_rate": 0}},
            "teacher.optimizer.table_learning_rate: got 0.0; allowed: a number above 0.",
        ),
        (
            {"teacher__architecture": "net.py"},
            "teacher.architecture: got 'net.py', allowed: path/to/",
        ),
        (
            {"teacher__delayed_labels": "weihted"},
            "teacher.delayed_labels: got 'weihted'; allowed: matured, weighted, final. Did you mean 'weighted'?",
        ),
        (
            {"teacher__representation": {"taps": []}},
            "teacher.representation.taps: got an empty list; allowed: at least one tap of the teacher, such as",
        ),
        (
            {"teacher__representation": {"taps": ["user", "user"]}},
            "teacher.representation.taps[1]: got 'user' a second time; allowed: every value once.",
        ),
        ({"teacher__representation": {"dim": 0}}, "teacher.representation.dim: got 0; allowed: at least 1."),
        (
            {"teacher__representation": {"hidden": [8, 0]}},
            "teacher.representation.hidden[1]: got 0; allowed: at least 1.",
        ),
        (
            {"teacher__representation": {"dim": 8, "prefixes": [4, 8]}},
            "teacher.representation.prefixes[1]: got 8; allowed: rising widths from 1 to 7, below dim.",
        ),
        (
            {"teacher__representation": {"prefixes": [8, 4]}},
            "teacher.representation.prefixes[1]: got 4; allowed: rising widths from 1 to 31, below dim.",
        ),
        (
            {"teacher__representation": {"prefixes": [0]}},
            "teacher.representation.prefixes[0]: got 0; allowed: rising",
        ),
        (
            {"teacher__representation": {"codec": "int3"}},
            "teacher.representation.codec: got 'int3'; allowed: fp16, int8, int4. Did you mean",
        ),
        (
            {"teacher__representation": {"learning_rate": 0}},
            "teacher.representation.learning_rate: got 0.0; allowed: a number above 0.",
        ),
        (
            {"teacher__representation": {"tap": ["user"]}},
            "teacher.representation.tap: got an unknown key; allowed: taps, dim, hidden, prefixes, codec,",
        ),
        ({"data__root": "x"}, "data.root: got 'x'; allowed: null, the source 'toy' reads no files."),
        ({"data__source": "files"}, "data.root: got nothing; allowed: the folder of the source 'files'."),
        (
            {"data": {"source": "files", "root": "nowhere"}},
            "data.root: got 'nowhere', no such folder; allowed: an ",
        ),
        ({"data__options": {"items": 1}}, "data.options.items: got 1, allowed: at least 2"),
    ],
)
def test_one_mistake(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (problem,) = problems(tmp_path, experiment(**changes))
    assert problem.partition(": ")[2].startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"students__0__verticals": ["fed"]},
            "students[0] (one).verticals[0]: got 'fed'; allowed: feed, 0. Did you",
        ),
        (
            {"students__0__verticals": ["reels"]},
            "students[0] (one).verticals[0]: got 'reels'; allowed: feed, 0.",
        ),
        (
            {"students__1__features": ["user"]},
            "students[1] (two).features[0]: got 'user'; allowed: user_id, item_id.",
        ),
        ({"teacher__dense": ["agee"]}, "teacher.dense[0]: got 'agee'; allowed: age. Did you mean 'age'?"),
        (
            {"students__0__architecture": "seeing", "students__0__content": ["imag"]},
            "students[0] (one).content[0]: got 'imag'; allowed: image. Did you mean 'image'?",
        ),
        (
            {"students__0__architecture": "seeing", "students__0__content": ["image", "image"]},
            "students[0] (one).content[1]: got 'image' a second time;",
        ),
        (
            {"students__0__content": ["image"]},
            "students[0] (one).content: got ['image']; allowed: an empty list, the architecture 'small' reads no",
        ),
        (
            {"teacher__content": ["image"]},
            "teacher.content: got ['image']; allowed: an empty list, the architecture 'big' reads no content vectors.",
        ),
        (
            {"teacher__tasks": ["clik", "conversion"]},
            "teacher.tasks[0]: got 'clik'; allowed: click, conversion. Did",
        ),
        (
            {"teacher__tasks": ["click"], "students__0__tasks": ["click"]},
            "students[1] (two).tasks: got conversion, which the teacher does not learn; allowed: click.",
        ),
        (
            {"schedule__test_days": [7, 9]},
            "schedule.test_days[1]: got day 9; allowed: day 2 to 8, the last day of",
        ),
        (
            {"schedule__tune_days": [1, 2, 6]},
            "schedule.tune_days[0]: got day 1; allowed: day 2 to 8, the last day",
        ),
        (
            {"schedule__tune_days": []},
            "schedule.tune_days: got an empty list; allowed: at least one day, such as",
        ),
        (
            {"schedule__tune_days": [5, 5]},
            "schedule.tune_days[1]: got 5 a second time; allowed: every value once.",
        ),
        (
            {"schedule__test_days": [6]},
            "schedule.test_days: got [6]; allowed: days after the tune days [5, 6], or",
        ),
        ({"schedule__lag": -1}, "schedule.lag: got -1; allowed: at least 0."),
        (
            {"schedule__lag": 4},
            "schedule.lag: got 4 with the last tune day 6; allowed: at most 3 or a last tune day from 7 on; else ",
        ),
        (
            {"schedule__lag": 9},
            "schedule.lag: got 9 with the last tune day 6; allowed: at most 3; else no student trains on a day that",
        ),
        (
            {"schedule__test_days": [9, 10, 11]},
            "schedule.test_days: got days 9, 10, 11; allowed: day 2 to 8, the last day of the data set.",
        ),
        (
            {"schedule__student_first_day": 5},
            "schedule.student_first_day: got day 5; allowed: a day before the first",
        ),
        ({"schedule__student_first_day": -1}, "schedule.student_first_day: got -1; allowed: at least 0."),
        ({"schedule": FROZEN | {"teacher_days": 0}}, "schedule.teacher_days: got 0; allowed: at least 1."),
        (
            {"schedule": FROZEN | {"teacher_days": 4}},
            "schedule.teacher_days: got day 4; allowed: in this order: the",
        ),
        (
            {"schedule": FROZEN | {"student_first_day": 3}},
            "schedule.student_first_day: got day 3; allowed: in this",
        ),
        (
            {"schedule": FROZEN | {"student_last_day": 3}},
            "schedule.student_last_day: got day 3; allowed: day 4 or ",
        ),
        (
            {"schedule": FROZEN | {"student_last_day": 7}},
            "schedule.student_last_day: got day 7; allowed: a day before",
        ),
    ],
)
def test_one_mistake_that_needs_the_schema(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (problem,) = problems(tmp_path, experiment(**changes))
    assert problem.partition(": ")[2].startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tasks": ["click"], "negative_sampling": 0},
            "got 0.0; allowed: above 0 and up to 1, which keeps all rows.",
        ),
        (
            {"tasks": ["click"], "negative_sampling": 1.5},
            "got 1.5; allowed: above 0 and up to 1, which keeps all",
        ),
        ({"negative_sampling": -0.1}, "got -0.1; allowed: above 0 and up to 1"),
        (
            {"negative_sampling": 0.1},
            "got 0.1 with the tasks click, conversion; allowed: 1, or a student of exactly one task: a row that is ",
        ),
        (
            {"tasks": ["conversion", "click"], "negative_sampling": 0.1},
            "got 0.1 with the tasks conversion, click; allowed: 1, or a student of exactly one task: a row that is ",
        ),
        (
            {"tasks": ["click"], "negative_sampling": 0.1, "delayed_labels": "weighted"},
            "got 0.1 with weighted labels; allowed: 1, or `delayed_labels: matured`: a weighted target of 0 may be a ",
        ),
    ],
)
def test_negatives_that_cannot_be_dropped(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    content = experiment(**{f"students__0__{key}": value for key, value in changes.items()})
    (problem,) = problems(tmp_path, content)
    assert f"students[0] (one).negative_sampling: {message}" in problem


@pytest.mark.parametrize(
    "changes", [{"negative_sampling": 1}, {"tasks": ["conversion"], "negative_sampling": 0.01}]
)
def test_negatives_that_can_be_dropped(tmp_path: Path, changes: dict[str, Any]) -> None:
    content = experiment(**{f"students__0__{key}": value for key, value in changes.items()})
    assert load(tmp_path, content).config.students[0].negative_sampling == changes["negative_sampling"]


def test_without_a_teacher_only_channels_that_need_none(tmp_path: Path) -> None:
    content = experiment(teacher=None, channels__mine={"own": {}, "soft": {}})
    (first, second) = problems(tmp_path, content)
    got = "got the channel 'soft' without its teacher; allowed: channels that need no teacher, "
    assert f"channels.ah.soft: {got}" in first and f"channels.mine.soft: {got}" in second
    assert load(tmp_path, experiment(teacher=None, channels={"mine": {"own": {}}})).config.teacher is None


def test_labels_from_the_future_are_for_simulated_data_alone(tmp_path: Path) -> None:
    asked = {"teacher__delayed_labels": "final", "students__1__delayed_labels": "final"}
    first, second = problems(tmp_path, experiment(**asked))
    why = "got 'final' for the source 'toy'; allowed: matured, weighted: `final` trains on labels from the future, a"
    assert f"teacher.delayed_labels: {why}" in first and f"students[1] (two).delayed_labels: {why}" in second
    with mock.patch("distill.validate.SIMULATED", "toy"):
        assert problems(tmp_path, experiment(**asked)) == []


def test_a_set_that_no_student_uses_needs_no_teacher(tmp_path: Path) -> None:
    content = experiment(teacher=None, students__0__channels=["none"], students__1__channels=["none"])
    assert load(tmp_path, content).config.teacher is None


def test_a_student_may_predict_what_the_teacher_does_not_learn_when_it_learns_alone(tmp_path: Path) -> None:
    content = experiment(teacher__tasks=["click"], channels={"mine": {"own": {}}})
    assert problems(tmp_path, content) == []


def test_representation_is_absent_or_has_every_default(tmp_path: Path) -> None:
    teacher = load(tmp_path, experiment()).config.teacher
    assert teacher is not None and teacher.representation is None
    loaded = load(tmp_path, experiment(teacher__representation={"dim": 8, "prefixes": [2, 4]}))
    assert "  representation:\n    taps:\n    - penultimate\n    dim: 8\n" in loaded.to_yaml()
    assert load(tmp_path, loaded.to_yaml()).config == loaded.config


def test_a_teacher_alone_is_an_experiment(tmp_path: Path) -> None:
    assert load(tmp_path, experiment(students=[])).config.students == []


def test_frozen(tmp_path: Path) -> None:
    assert load(tmp_path, experiment(schedule=FROZEN)).config.schedule.kind == "frozen"


def test_the_sources_files_are_looked_for(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, experiment(data={"source": "files", "root": str(tmp_path)}))
    assert problem == f"trial.yaml:6: data.root: no rows.csv in {tmp_path}"


def test_without_a_schema_names_are_left_to_the_run(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").touch()
    content = experiment(data={"source": "files", "root": str(tmp_path)}, schedule={"tune_days": [400]})
    content["schedule"]["test_days"] = []
    loaded = load(tmp_path, content | {"students": [content["students"][0] | {"verticals": ["anything"]}]})
    assert loaded.schema is None


@pytest.mark.parametrize("key", ["output", "data.cache"])
def test_a_file_where_a_folder_belongs(tmp_path: Path, key: str) -> None:
    (problem,) = problems(tmp_path, experiment(), f"{key}={tmp_path}/trial.yaml")
    assert "which is no folder; allowed: a folder, or a name that is free." in problem
