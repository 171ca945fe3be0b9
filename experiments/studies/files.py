"""Study files: YAML checked against a dataclass, every mistake told at once. Free of torch.

`experiment` is relative to the study file; folders and tables are relative to the current directory, as in experiments.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from distill.checks import check_name, check_unique
from distill.errors import ConfigErrors, Problem
from distill.findings import Findings, show
from distill.load_config import LoadedConfig, load_config
from distill.strict_yaml import Document, KeyPath, read
from distill.structured import build, checked

TEACHER_KEYS = "teacher."
_SHOWN = 80  # characters of a place that a message repeats


@dataclass
class StudyFile:
    """What every study file says.

    Attributes:
        experiment: experiment file, relative to this file.
        output: folder that gets the trainings, relative to the current directory.
        table: CSV of results, relative to the current directory.
        seeds: one training of everything per seed.
    """

    experiment: str = "???"
    output: str = "???"
    table: str = "???"
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])


@dataclass
class ComparisonFile(StudyFile):
    """What a study says that trains several models on one data set.

    Attributes:
        data: what the table calls the data set.
        set: `--set` keys and values of the experiment, the same for every training.
    """

    data: str = "???"
    set: dict[str, Any] = field(default_factory=dict)


S = TypeVar("S", bound=StudyFile)


def read_study(path: Path, kind: type[S], check: Callable[[S, Findings], None]) -> S:
    """Read a study file.

    Args:
        path: the file.
        kind: its dataclass.
        check: adds what is wrong beside types and names.

    Returns:
        The study; `experiment` is absolute.

    Raises:
        ConfigErrors: everything that is wrong with the file.
    """
    document = read(path)
    findings = Findings()
    findings.place((), document)
    content = checked(document.content, kind, (), findings)
    if not isinstance(content, dict):
        findings.raise_any()
    study = build(kind, content)
    _check_common(study, document, findings)
    check(study, findings)
    findings.raise_any()
    study.experiment = str((document.folder / study.experiment).resolve())
    return study


def _check_common(study: StudyFile, document: Document, findings: Findings) -> None:
    file = document.folder / study.experiment
    if not file.is_file():
        allowed = f"an experiment file, relative to {document.folder.resolve()}"
        findings.add(("experiment",), f"{show(study.experiment)}, which is not there", allowed)
    if isinstance(study, ComparisonFile):
        check_name(study.data, ("data",), findings)
    check_seeds(study.seeds, ("seeds",), findings)


def check_seeds(seeds: Sequence[int], path: KeyPath, findings: Findings) -> None:
    """At least one seed, none negative, none twice."""
    if not seeds:
        findings.add(path, "an empty list", "at least one seed, such as [0]")
    for index, seed in enumerate(seeds):
        if seed < 0:
            findings.add((*path, index), str(seed), "0 or more")
    check_unique(seeds, path, findings)


def check_teacher_keys(settings: Mapping[str, Any], path: KeyPath, findings: Findings) -> None:
    """Settings that differ from model to model are the teacher's alone, or rows and days would differ too."""
    for key in settings:
        if not key.startswith(TEACHER_KEYS) or key == f"{TEACHER_KEYS}name":
            allowed = "keys of the teacher, such as teacher.options.dim; its name is given here"
            findings.add((*path, key), f"the key {key}", allowed)


def unequal(trials: Mapping[str, Sequence[Any]]) -> str:
    """What to say when not everybody has the same number of trials; empty when everybody has."""
    counts = {name: len(given) for name, given in trials.items()}
    return "" if len(set(counts.values())) <= 1 else ", ".join(f"{n} of {name}" for name, n in counts.items())


def overrides(settings: Mapping[str, Any]) -> list[str]:
    """`--set` arguments of a mapping from keys to values."""
    # JSON is YAML on one line.
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def load_all(
    study: StudyFile, path: Path, settings: Mapping[str, Iterable[str]], common: Sequence[str] = ()
) -> dict[str, LoadedConfig]:
    """Load the study's experiment once for every model.

    Args:
        study: the study.
        path: its file, for messages.
        settings: model to its `--set` arguments.
        common: `--set` arguments before those of every model.

    Returns:
        Model to its experiment.

    Raises:
        ConfigErrors: the problems of all models, each named once.
    """
    loaded: dict[str, LoadedConfig] = {}
    problems: dict[tuple[str, str, str], Problem] = {}
    for name, arguments in settings.items():
        try:
            loaded[name] = load_config(study.experiment, [*common, *arguments])
        except ConfigErrors as error:
            for problem in error.problems:
                # A whole teacher given by --set would fill the screen.
                place = problem.file if len(problem.file) <= _SHOWN else f"{problem.file[:_SHOWN]}…"
                found = replace(problem, file=f"{path}: {name}: {place}")
                problems.setdefault((problem.file, problem.key, problem.got or problem.hint), found)
    if problems:
        raise ConfigErrors(list(problems.values()))
    return loaded


def hash_of(loaded: Mapping[str, LoadedConfig]) -> str:
    """sha256 (hex) of the settings of all models of a study."""
    hashes = {name: of.config_hash for name, of in loaded.items()}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
