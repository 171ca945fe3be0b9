"""Reads an experiment: YAML, teacher and students from their own files, `--set`, types, meaning. Free of torch.

Paths follow one rule: what is part of the config (`file:` of a teacher or student, `file.py:Class` of an
architecture) is relative to the YAML file that names it; folders (`output`, `data.root`, `data.cache`) are
relative to the current directory.

Whoever loads a config has filled the registries before (`import experiments.catalog`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from distill.by_content import by_content
from distill.config import ExperimentConfig, StudentConfig, TeacherConfig
from distill.errors import ConfigErrors, Problem
from distill.findings import Findings, show
from distill.overrides import apply_overrides
from distill.schema import FeatureSchema
from distill.strict_yaml import Document, KeyPath, read
from distill.structured import build, checked, to_plain
from distill.validate import check_experiment
from distill.validate_models import check_student, check_teacher

NO_RESULT = ("checkpoint", "sharding")
"""Settings that may change on the way: what is trained stays the same, unless `sharding.group` makes copies."""


def deciding(plain: dict[str, Any]) -> dict[str, Any]:
    """Of a resolved config those settings that decide what is trained."""
    found = {key: value for key, value in plain.items() if key not in NO_RESULT}
    group = plain["sharding"]["group"]
    return found | {"sharding": {"group": group}} if group else found


_MODELS_OWN = frozenset({"architecture", "options", "optimizer", "verticals"})
_EXPERIMENTS_OWN = frozenset({"output", "data", "teacher", "students", "seeds"})
"""Keys by which a file of the other kind is known."""


@dataclass(frozen=True)
class LoadedConfig:
    """An experiment without a problem.

    Attributes:
        config: resolved: options carry every default, `channels` of every student starts with `none`, the
            file of a user's own architecture is absolute.
        path: the experiment file.
        schema: the data set's schema, when the source can tell it before preparing the data set.
    """

    config: ExperimentConfig
    path: Path
    schema: FeatureSchema | None

    @property
    def base(self) -> Path:
        """Folder of the experiment file."""
        return self.path.parent

    def to_yaml(self) -> str:
        """The resolved config, in the order of the dataclasses; loading it gives an equal config."""
        return yaml.safe_dump(to_plain(self.config), sort_keys=False, width=110, allow_unicode=True)

    @cached_property
    def config_hash(self) -> str:
        """sha256 (hex) of the resolved config, see `content_hash`."""
        return content_hash(self.config, self.config.seeds)


def content_hash(config: ExperimentConfig, seeds: Sequence[int]) -> str:
    """sha256 (hex) of a resolved config, keys sorted; files that it names, such as a user's own architecture, enter by
    what stands in them, what decides nothing (`deciding`) not at all.

    Args:
        config: resolved.
        seeds: whose files count where `start` of a teacher holds `{seed}`.
    """
    plain = deciding(to_plain(by_content(config, seeds)))
    canonical = yaml.safe_dump(plain, sort_keys=True, width=110, allow_unicode=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read and check an experiment file.

    Args:
        path: the YAML file.
        overrides: `a.b=value` texts (distill.overrides).

    Raises:
        ConfigErrors: everything that is wrong, in the file, its teacher's and students' files and the overrides.
    """
    document = _read_mapping(path)
    content, findings = document.content, Findings()
    findings.place((), document)
    _refuse_model(document)
    _read_teacher(content, document, findings)
    _read_list(content, "domain_teachers", document, findings)
    _read_list(content, "students", document, findings)
    apply_overrides(content, overrides, findings)
    findings.student_names = _student_names(content)
    config = build(ExperimentConfig, checked(content, ExperimentConfig, (), findings))
    schema = check_experiment(config, findings)
    findings.raise_any()
    return LoadedConfig(config, Path(path), schema)


def load_student(path: str | Path) -> StudentConfig:
    """Read and check a student's own file, apart from any experiment.

    Args:
        path: the YAML file.

    Raises:
        ConfigErrors: everything that is wrong and can be seen without data set and channel sets.
    """
    document, findings = _read_mapping(path), Findings()
    findings.place((), document)
    _refuse_experiment(document)
    student = build(StudentConfig, checked(document.content, StudentConfig, (), findings))
    check_student(student, (), findings)
    findings.raise_any()
    return student


def load_teacher(path: str | Path) -> TeacherConfig:
    """Read and check a teacher's own file, apart from any experiment.

    Args:
        path: the YAML file.

    Raises:
        ConfigErrors: everything that is wrong and can be seen without data set.
    """
    document, findings = _read_mapping(path), Findings()
    findings.place((), document)
    teacher = build(TeacherConfig, checked(document.content, TeacherConfig, (), findings))
    check_teacher(teacher, (), findings)
    findings.raise_any()
    return teacher


def _read_mapping(path: str | Path) -> Document:
    document = read(path)
    if not isinstance(document.content, dict):
        got = "an empty file" if document.content is None else show(document.content)
        raise ConfigErrors([Problem(document.label, "file", got, "a mapping of `key: value` lines")])
    return document


def _refuse_model(document: Document) -> None:
    """Say once that a file is a model's own, where every key of it would be unknown to an experiment."""
    if _MODELS_OWN & document.content.keys() and not _EXPERIMENTS_OWN & document.content.keys():
        allowed = "an experiment file, which names it: `students: [{file: ...}]`, or `teacher: {file: ...}`"
        hint = "`distill validate --student` checks a student's file."
        raise ConfigErrors([Problem(document.label, "file", "a model's own file", allowed, hint)])


def _refuse_experiment(document: Document) -> None:
    """The other way round."""
    if _EXPERIMENTS_OWN & document.content.keys() and not _MODELS_OWN & document.content.keys():
        hint = "Leave --student out."
        raise ConfigErrors(
            [Problem(document.label, "file", "an experiment file", "a student's own file", hint)]
        )


def _read_teacher(content: dict[str, Any], document: Document, findings: Findings) -> None:
    """Replace `file: x.yaml` by what stands in the file; an unreadable one by an empty teacher."""
    teacher = content.get("teacher")
    if isinstance(teacher, dict) and "file" in teacher:
        content["teacher"] = _from_file(teacher, ("teacher",), document.folder, findings)


def _read_list(content: dict[str, Any], key: str, document: Document, findings: Findings) -> None:
    """Replace every `file: x.yaml` of a list of models by what stands in it; an unreadable one by an empty model."""
    models = content.get(key)
    if not isinstance(models, list):
        return
    for index, model in enumerate(models):
        if isinstance(model, dict) and "file" in model:
            models[index] = _from_file(model, (key, index), document.folder, findings)


def _from_file(model: dict[str, Any], place: KeyPath, folder: Path, findings: Findings) -> dict[str, Any]:
    """Content of a teacher's or student's file; an empty mapping where it cannot be read, which is reported."""
    file = model["file"]
    if len(model) > 1:
        others = ", ".join(key for key in model if key != "file")
        findings.add(place, f"{others} beside `file`", "`file` alone (change single values with --set)")
    elif not isinstance(file, str) or not os.path.isfile(folder / file):
        findings.add(
            place,
            f"the file {show(file)}, which is not there",
            f"a YAML file, relative to {folder.resolve()}",
        )
    else:
        try:
            document = _read_mapping(os.path.normpath(folder / file))
        except ConfigErrors as error:
            for problem in error.problems:
                findings.add_problem(problem, place)
        else:
            findings.place(place, document)
            return document.content
    return {}


def _student_names(content: dict[str, Any]) -> dict[int, str]:
    students = content.get("students")
    named = enumerate(students if isinstance(students, list) else [])
    return {
        index: str(student["name"])
        for index, student in named
        if isinstance(student, dict) and "name" in student
    }
