"""A user's own architecture, named in YAML as `path/to/file.py:Class`, with no edit inside the project.

`check` reads the file without executing it and needs no torch; `build` executes it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.errors import UserError, nearest

FORM = "path/to/file.py:Class"
SHARED = ("schema", "tasks", "features", "dense_features", "seed", "table_learning_rate")
"""What every architecture is given; what else its constructor takes is an option, but for `content` and `ROOM`."""
CONTENT = "content"
"""The modalities that the model is to read, given when there are any."""
ROOM = ("extra_fields", "extra_history")
"""How many fields channels will give the model, and how many of the user's events they read; given when not 0."""


def is_user_file(architecture: str) -> bool:
    """True for `path/to/file.py:Class`, False for a registered name."""
    return ".py:" in architecture or architecture.endswith(".py")


def check(architecture: str, folder: Path | None = None) -> None:
    """See that the file is there, can be parsed and defines the class. Nothing is executed.

    Args:
        architecture: `path/to/file.py:Class`.
        folder: that a relative path starts from; None for the working directory.

    Raises:
        UserError: what is wrong, with the nearest name.
    """
    path, name = _split(architecture, folder)
    names = list(_bound_names(_parse(path)))
    if name not in names:
        raise _missing(path, name, names)


def load_class(architecture: str, folder: Path | None = None) -> type:
    """Execute the file and take the class out of it.

    Errors that the file itself raises pass through with their traceback.

    Args:
        architecture: `path/to/file.py:Class`.
        folder: that a relative path starts from; None for the working directory.

    Raises:
        UserError: no such file or class, or no subclass of distill.protocols.Architecture.
    """
    from distill.protocols import Architecture  # torch is needed here, not by `check`

    path, name = _split(architecture, folder)
    _parse(path)
    module = _execute(path)
    if not hasattr(module, name):
        raise _missing(path, name, list(vars(module)))
    found = getattr(module, name)
    if not (isinstance(found, type) and issubclass(found, Architecture)):
        raise UserError(
            f"architecture: got '{name}' of {path}, allowed: a subclass of distill.protocols.Architecture. "
            "Derive the class from it, or from students.base.Student"
        )
    unwritten = sorted(getattr(found, "__abstractmethods__", ()))
    if unwritten:
        raise UserError(
            f"architecture: '{name}' of {path} does not define {', '.join(unwritten)}; write them"
        )
    return found


def build(architecture: str, folder: Path | None, options: Mapping[str, Any], **shared: Any) -> Any:
    """Execute the file and construct its architecture.

    Args:
        architecture: `path/to/file.py:Class`.
        folder: that a relative path starts from.
        options: the model's options, passed by name.
        shared: schema, tasks, features, dense_features, seed and table_learning_rate; content and `ROOM` if any.

    Raises:
        UserError: as `load_class`; an option that the constructor does not take, or one that it needs; content
            that it does not take or needs; channels that give fields, for which it has no room.
    """
    found = load_class(architecture, folder)
    _check_options(found, options)
    _check_content(found, shared.get(CONTENT, ()))
    _check_room(found, [name for name in ROOM if name in shared])
    return found(**shared, **options)


def _split(architecture: str, folder: Path | None) -> tuple[Path, str]:
    file, _, name = architecture.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise UserError(f"architecture: got '{architecture}', allowed: {FORM}")
    path = (Path(folder or ".") / file).resolve()
    if not path.is_file():
        raise UserError(
            f"architecture: got '{architecture}', but there is no file {path}. "
            "A relative path starts from the YAML file's folder"
        )
    return path, name


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, UnicodeDecodeError) as error:
        where = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
        raise UserError(f"architecture: {path} is no Python file: {where}") from error


def _bound_names(tree: ast.Module) -> Iterator[str]:
    """Names that the file's top level may bind to a class: classes, imports, assignments."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.ImportFrom | ast.Import):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _missing(path: Path, name: str, names: Iterable[str]) -> UserError:
    names = [candidate for candidate in names if not candidate.startswith("_")]
    return UserError(f"architecture: {path} defines no class '{name}'. {nearest(name, names)}".rstrip())


def _execute(path: Path) -> Any:
    # One name per file, so that two files called model.py do not meet in sys.modules.
    name = f"user_file_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, f"{path} ends in .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _check_content(found: type, content: Sequence[str]) -> None:
    parameters, open_ended = _parameters(found)
    if content and CONTENT not in parameters and not open_ended:
        raise UserError(
            f"content: got {', '.join(content)}, allowed: nothing, the constructor of {found.__name__} takes no "
            "argument 'content'"
        )
    if not content and CONTENT in parameters and parameters[CONTENT].default is inspect.Parameter.empty:
        raise UserError(f"content: got nothing, allowed: at least one modality; {found.__name__} needs it")


def _check_room(found: type, needed: Sequence[str]) -> None:
    parameters, open_ended = _parameters(found)
    missing = [name for name in needed if name not in parameters]
    if missing and not open_ended:
        raise UserError(
            f"channels: got one that gives fields, allowed: channels that only teach, since the constructor of "
            f"{found.__name__} takes no {' and no '.join(missing)}. Derive the class from students.base.Student"
        )


def _check_options(found: type, options: Mapping[str, Any]) -> None:
    parameters, open_ended = _parameters(found)
    given = (*SHARED, CONTENT, *ROOM)
    allowed = [name for name in parameters if name not in given]
    listed = ", ".join(allowed) or "none"
    for name in options:
        if name in given or (name not in allowed and not open_ended):
            raise UserError(f"options: got '{name}', allowed: {listed}. {nearest(name, allowed)}".rstrip())
    for name in allowed:
        if parameters[name].default is inspect.Parameter.empty and name not in options:
            raise UserError(
                f"options: '{name}' is missing; {found.__name__} needs it (its options: {listed})"
            )


def _parameters(found: type) -> tuple[dict[str, inspect.Parameter], bool]:
    """Named parameters of the constructor, through `**rest` up the base classes; True when `**rest` ends
    nowhere."""
    named: dict[str, inspect.Parameter] = {}
    for base in found.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                named.setdefault(parameter.name, parameter)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return named, False
    return named, True
