"""Imports go down only: kernels, then distill, then adapters, teachers and students, then experiments."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
# A room may import itself and lower floors; `tests` stands above all, so no room may import it.
FLOORS = {
    "kernels": 1,
    "distill": 2,
    "adapters": 3,
    "teachers": 3,
    "students": 3,
    "experiments": 4,
    "tests": 5,
}
ROOMS = [room for room in FLOORS if room != "tests"]
BY_NAME = {"import_module", "__import__", "find_spec", "run_module"}


def absolute(name: str, level: int, package: list[str]) -> str:
    """Resolves a relative import of `level` dots made inside `package`; level 0 is absolute already."""
    base = package[: max(0, len(package) - level + 1)] if level else []
    return ".".join([*base, name] if name else base)


def aliases(tree: ast.Module) -> dict[str, str]:
    """Local names of things imported by `from m import name as local`: local to name."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: alias.name for node in imports for alias in node.names}


def leading_text(node: ast.expr) -> str | None:
    """The string that an expression certainly starts with: a constant, or an f-string's first part."""
    if isinstance(node, ast.JoinedStr) and node.values:
        node = node.values[0]
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def called_module(call: ast.Call, local_names: dict[str, str], package: list[str]) -> str | None:
    """The module named by import_module("…"), __import__("…") and the like; None for any other call."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    arguments = [*call.args, *(k.value for k in call.keywords if k.arg in ("name", "mod_name"))]
    if local_names.get(name, name) not in BY_NAME or not arguments:
        return None
    text = leading_text(arguments[0])
    if text is None:
        return None
    dots = len(text) - len(text.lstrip("."))
    return absolute(text[dots:], dots, package)


def imported(tree: ast.Module, package: list[str]) -> Iterator[tuple[int, str]]:
    """Every (line, module) that a file imports, wherever in the file: in functions and for typing too."""
    local_names = aliases(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node.module or "", node.level, package)
            # An empty base: a relative import out of the room, whose names are modules themselves.
            yield from ((node.lineno, base or alias.name) for alias in node.names)
        elif isinstance(node, ast.Call):
            module = called_module(node, local_names, package)
            if module is not None:
                yield node.lineno, module


def violations(project: Path, room: str) -> list[str]:
    """One line per import in the room that does not go down."""
    found = set()
    for path in sorted((project / room).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        for line, module in imported(tree, list(path.relative_to(project).parts[:-1])):
            target = module.split(".")[0]
            if target != room and FLOORS.get(target, 0) >= FLOORS[room]:
                found.add(f"{path.relative_to(project)}:{line} imports {module}")
    return sorted(found)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down(room: str) -> None:
    assert (PROJECT / room / "__init__.py").is_file()
    assert violations(PROJECT, room) == []


def plant(project: Path, room: str, source: str) -> list[str]:
    """What the checker says about one file `<room>/part/thing.py` with this source."""
    path = project / room / "part" / "thing.py"
    path.parent.mkdir(parents=True)
    path.write_text(source, encoding="utf-8")
    return violations(project, room)


@pytest.mark.parametrize(
    ("room", "source", "module"),
    [
        ("kernels", "import distill", "distill"),
        ("distill", "import torch, teachers.gem as gem", "teachers.gem"),
        ("teachers", "from students.bank import Bank", "students.bank"),
        ("students", "from adapters import heads", "adapters"),
        ("adapters", "def f():\n    from experiments import compose", "experiments"),
        ("distill", "from ... import students", "students"),
        ("distill", "from ...students import bank", "students"),
        ("distill", "import importlib\nimportlib.import_module('teachers.gem')", "teachers.gem"),
        ("distill", "from importlib import import_module as load\nload('teachers')", "teachers"),
        ("distill", "import importlib as i\ni.import_module(name='teachers')", "teachers"),
        ("distill", "import importlib\nimportlib.import_module(f'teachers.{x}')", "teachers."),
        ("distill", "import importlib\nimportlib.import_module('...teachers', __package__)", "teachers"),
        ("students", "__import__('experiments.cli')", "experiments.cli"),
        ("experiments", "from tests import helpers", "tests"),
        (
            "kernels",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from distill import batch",
            "distill",
        ),
    ],
)
def test_planted_violation_is_found(tmp_path: Path, room: str, source: str, module: str) -> None:
    line = source.count("\n") + 1
    assert plant(tmp_path, room, source) == [f"{room}/part/thing.py:{line} imports {module}"]


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("experiments", "import kernels, distill, adapters, teachers, students, experiments.cli"),
        ("distill", "from kernels.embedding import EmbeddingTables"),
        ("distill", "from .. import students"),  # distill.students, a module of its own
        ("teachers", "from .students import x"),
        ("students", "import teachers_of_others"),
        ("distill", "import importlib\nimportlib.import_module(name)"),
        ("distill", "print('teachers.gem')"),
    ],
)
def test_allowed_import_is_not_reported(tmp_path: Path, room: str, source: str) -> None:
    assert plant(tmp_path, room, source) == []
