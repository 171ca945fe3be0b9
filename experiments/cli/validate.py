"""Check experiment files, or students' own files, and tell every problem at once.

Nothing is trained or prepared, and no code of yours is executed.
"""

from __future__ import annotations

import argparse

from distill.config import ExperimentConfig
from distill.errors import ConfigErrors, Problem
from distill.fields import describe
from distill.load_config import LoadedConfig, load_config, load_student
from experiments.cli.common import add_set
from experiments.quantity import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Files, `--set`, `--student`, `--resolved`; the keys of an experiment file are the epilogue."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="experiment file (YAML)")
    add_set(parser)
    parser.add_argument("--student", action="store_true", help="the files are students' own files")
    parser.add_argument("--resolved", action="store_true", help="print the config with every default")
    parser.epilog = f"keys of an experiment file:\n{describe(ExperimentConfig)}"


def run(args: argparse.Namespace) -> int:
    """Check every file; problems of all of them are raised together."""
    import experiments.catalog  # noqa: F401  fills the registries

    if args.student and (args.overrides or args.resolved):
        raise ConfigErrors([Problem("--student", "option", "--set or --resolved", "--student alone")])
    problems: list[Problem] = []
    for file in args.files:
        try:
            print(_student(file) if args.student else _experiment(file, args))
        except ConfigErrors as error:
            problems += error.problems
    if problems:
        raise ConfigErrors(problems)
    return 0


def _student(file: str) -> str:
    student = load_student(file)
    return f"{file}: ok, student '{student.name}' ({student.architecture}) on {', '.join(student.verticals)}"


def _experiment(file: str, args: argparse.Namespace) -> str:
    loaded = load_config(file, args.overrides)
    return loaded.to_yaml() if args.resolved else f"{file}: ok, {_size(loaded)}"


def _size(loaded: LoadedConfig) -> str:
    config = loaded.config
    cells = sum(len(student.verticals) * len(student.channels) for student in config.students)
    teacher = "no teacher" if config.teacher is None else f"teacher {config.teacher.name}"
    return (
        f"{teacher}, {counted(len(config.students), 'student')} in {counted(cells, 'cell')}, "
        f"{counted(len(config.seeds), 'seed')}, config {loaded.config_hash[:12]}"
    )
