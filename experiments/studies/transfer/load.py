"""From a transfer study's file to one experiment per slice, each checked as any experiment is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distill.config import ExperimentConfig, StudentConfig
from distill.errors import ConfigErrors, Problem, nearest
from distill.findings import show
from distill.load_config import LoadedConfig
from experiments.pipeline import domains
from experiments.studies.files import load_all, overrides
from experiments.studies.transfer.file import CORE, Slice, Transfer
from experiments.studies.tuning_file import OF, Tuning, read_tuning

NONE = "none"


def load_slices(study: Transfer, path: Path, settings: Sequence[str]) -> dict[str, LoadedConfig]:
    """Load every slice; the core comes first.

    Args:
        study: the file's content.
        path: the file, for messages.
        settings: `--set` arguments of the experiment, as on the command line.

    Returns:
        Slice to its experiment, whose students have exactly the channel sets to be trained.

    Raises:
        ConfigErrors: the problems of all slices.
    """
    common = [*overrides(study.set), *settings]
    base = load_all(study, path, {CORE: []}, common)[CORE].config
    problems = [*_unknown(study, path, base), *_untuned(study, path, base)]
    if problems:
        raise ConfigErrors(problems)
    slices = {CORE: Slice(channels=[name for name in base.channels if name != NONE]), **study.slices}
    arguments = {name: overrides(_settings(study, name, of, base)) for name, of in slices.items()}
    return load_all(study, path, arguments, common)


def _settings(study: Transfer, name: str, of_slice: Slice, base: ExperimentConfig) -> dict[str, Any]:
    """`--set` keys and values of a slice."""
    settings = {
        "output": str(Path(study.output) / name),
        "seeds": study.seeds,
        "floor": False,
        **of_slice.set,
    }
    for student in base.students:
        place = f"students.{student.name}"
        settings |= {f"{place}.channels": _sets(student, of_slice), f"{place}.route": of_slice.route}
    if of_slice.route == "direct" and not domains.weigh_others(base, of_slice.channels):
        settings["domain_teachers"] = []
    return settings


def _sets(student: StudentConfig, of_slice: Slice) -> list[str]:
    return [NONE, *(name for name in of_slice.channels if name in student.channels and name != NONE)]


def _unknown(study: Transfer, path: Path, base: ExperimentConfig) -> Iterator[Problem]:
    """Channel sets and small verticals that the experiment does not have."""
    for name, of_slice in study.slices.items():
        for index, channel in enumerate(of_slice.channels):
            if channel not in base.channels:
                key, near = f"slices.{name}.channels[{index}]", nearest(channel, base.channels)
                yield Problem(str(path), key, show(channel), ", ".join(base.channels), near)
    if not base.students:
        yield Problem(str(path), "experiment", "an experiment without students", "at least one student")
    for index, vertical in enumerate(study.small):
        for student in base.students:
            if vertical not in student.verticals:
                got = f"{show(vertical)}, which the student '{student.name}' does not serve"
                yield Problem(str(path), f"small[{index}]", got, ", ".join(student.verticals))


def _untuned(study: Transfer, path: Path, base: ExperimentConfig) -> Iterator[Problem]:
    """Channel sets without trials, of students that have been tuned; others take what was found with these."""
    if study.tuning is None:
        return
    tuning = read_tuning(Path(study.tuning))
    if Path(tuning.experiment) != Path(study.experiment):
        yield Problem(str(path), "tuning", f"trials of {tuning.experiment}", f"trials of {study.experiment}")
    tuned = tuned_students(tuning, base)
    missing = [
        f"{student.name}{OF}{channel}"
        for student in tuned or base.students
        for channel in student.channels
        if not tuning.of(student.name, channel)
    ]
    if missing:
        yield Problem(
            str(path), "tuning", f"no trials of {', '.join(missing)}", "equally many for every channel set"
        )


def tuned_students(tuning: Tuning, base: ExperimentConfig) -> list[StudentConfig]:
    """The students of an experiment of which a tuning file has trials."""
    return [
        student
        for student in base.students
        if any(tuning.of(student.name, channel) for channel in student.channels)
    ]
