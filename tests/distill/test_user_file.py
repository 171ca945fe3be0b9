"""A user's own architecture: found, checked without being executed, loaded, built."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distill import user_file
from distill.errors import UserError

GOOD = """
from distill.protocols import Architecture

class Base(Architecture):
    def __init__(self, *, width=3, **common):
        super().__init__()
        self.width, self.common = width, common
    def forward(self, batch): ...
    def set_base_rates(self, rates): ...

class Tower(Base):
    def __init__(self, *, depth, schema, tasks, features, dense_features, seed, table_learning_rate, width=4):
        super().__init__(width=width, schema=schema)
        self.depth = depth

class Open(Base):
    pass

class Half(Architecture):
    def forward(self, batch): ...

class Plain:
    pass

class Seeing(Base):
    def __init__(self, *, content=(), **rest):
        super().__init__(**rest)
        self.content = content

class Roomy(Base):
    def __init__(self, *, extra_fields=0, extra_history=0, **rest):
        super().__init__(**rest)
        self.room = extra_fields, extra_history

class OnlyFields(Architecture):
    def __init__(self, *, schema, tasks, features, dense_features, seed, table_learning_rate, extra_fields=0): ...
    def forward(self, batch): ...
    def set_base_rates(self, rates): ...

class OnlySeeing(Seeing):
    def __init__(self, *, content, **rest):
        super().__init__(content=content, **rest)

Alias = Tower
"""
SHARED: dict[str, Any] = dict.fromkeys(user_file.SHARED)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.py").write_text(GOOD)
    return tmp_path


def test_only_file_references_are_user_files() -> None:
    assert user_file.is_user_file("a/b.py:Tower")
    assert not user_file.is_user_file("deepfm")


@pytest.mark.parametrize("name", ["Tower", "Alias", "Architecture"])
def test_check_finds_classes_aliases_and_imports(folder: Path, name: str) -> None:
    user_file.check(f"models/mine.py:{name}", folder)


def test_check_takes_an_absolute_path(folder: Path) -> None:
    user_file.check(f"{folder}/models/mine.py:Tower")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            "models/none.py:Tower",
            "there is no file .*none.py. A relative path starts from the YAML file's folder",
        ),
        ("models/mine.py:Towr", "defines no class 'Towr'. Did you mean 'Tower'?"),
        ("models/mine.py", "got 'models/mine.py', allowed: path/to/file.py:Class"),
        ("models/mine.py:", "allowed: path/to/file.py:Class"),
        ("models:Tower", "allowed: path/to/file.py:Class"),
    ],
)
def test_bad_references(folder: Path, reference: str, message: str) -> None:
    for look in (user_file.check, user_file.load_class):
        with pytest.raises(UserError, match=message):
            look(reference, folder)


def test_broken_file_names_the_line(folder: Path) -> None:
    (folder / "broken.py").write_text("x = 1\nclass Tower(\n")
    with pytest.raises(UserError, match="is no Python file: line 2"):
        user_file.check("broken.py:Tower", folder)


def test_check_executes_nothing_and_needs_no_torch(folder: Path) -> None:
    (folder / "loud.py").write_text("raise SystemExit(3)\nclass Tower: ...\n")
    code = (
        "import sys, pathlib; from distill import user_file; "
        f"user_file.check('loud.py:Tower', pathlib.Path({str(folder)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Plain", "got 'Plain' of .*, allowed: a subclass of distill.protocols.Architecture"),
        ("SHAPE", "got 'SHAPE' of .*, allowed: a subclass"),
        ("Half", "does not define set_base_rates"),
    ],
)
def test_what_is_no_architecture(folder: Path, name: str, message: str) -> None:
    path = folder / "models" / "mine.py"
    path.write_text(GOOD + "SHAPE = 3\n")
    with pytest.raises(UserError, match=message):
        user_file.load_class(f"models/mine.py:{name}", folder)


def test_error_of_the_file_itself_is_not_hidden(folder: Path) -> None:
    (folder / "fails.py").write_text("class Tower: ...\nraise KeyError('theirs')\n")
    with pytest.raises(KeyError, match="theirs"):
        user_file.load_class("fails.py:Tower", folder)


def test_two_files_of_one_name(folder: Path) -> None:
    (folder / "mine.py").write_text(GOOD.replace("width=4", "width=9"))
    first = user_file.build("models/mine.py:Tower", folder, {"depth": 1}, **SHARED)
    second = user_file.build("mine.py:Tower", folder, {"depth": 1}, **SHARED)
    assert (first.width, second.width) == (4, 9)


def test_options_reach_the_constructor(folder: Path) -> None:
    model = user_file.build("models/mine.py:Tower", folder, {"depth": 2, "width": 5}, **SHARED)
    assert (model.depth, model.width) == (2, 5)


def test_class_that_takes_anything_takes_any_option(folder: Path) -> None:
    model = user_file.build("models/mine.py:Open", folder, {"whatever": 1}, **SHARED)
    assert model.common["whatever"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depht": 2}, "options: got 'depht', allowed: depth, width. Did you mean 'depth'?"),
        ({"depth": 2, "seed": 3}, "options: got 'seed', allowed: depth, width."),
        ({}, r"options: 'depth' is missing; Tower needs it \(its options: depth, width\)"),
    ],
)
def test_wrong_options(folder: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        user_file.build("models/mine.py:Tower", folder, options, **SHARED)


def test_content_is_given_when_there_is_any(folder: Path) -> None:
    assert user_file.build("models/mine.py:Seeing", folder, {}, **SHARED).content == ()
    model = user_file.build("models/mine.py:Seeing", folder, {"width": 5}, **SHARED, content=("image",))
    assert (model.content, model.width) == (("image",), 5)
    assert user_file.build("models/mine.py:Open", folder, {}, **SHARED, content=("image",)).common["content"]


@pytest.mark.parametrize(
    ("name", "options", "content", "message"),
    [
        (
            "Tower",
            {"depth": 1},
            ("image",),
            "content: got image, allowed: nothing, .* Tower takes no argument 'cont",
        ),
        ("OnlySeeing", {}, (), "content: got nothing, allowed: at least one modality; OnlySeeing needs it"),
        ("Seeing", {"content": ["image"]}, (), "options: got 'content', allowed: width."),
    ],
)
def test_wrong_content(
    folder: Path, name: str, options: dict[str, Any], content: tuple[str, ...], message: str
) -> None:
    given = {"content": content} if content else {}
    with pytest.raises(UserError, match=message):
        user_file.build(f"models/mine.py:{name}", folder, options, **SHARED, **given)


def test_room_for_channels_is_given_when_any_is_needed(folder: Path) -> None:
    assert user_file.build("models/mine.py:Roomy", folder, {}, **SHARED).room == (0, 0)
    model = user_file.build("models/mine.py:Roomy", folder, {}, **SHARED, extra_fields=2, extra_history=5)
    assert model.room == (2, 5)
    assert user_file.build("models/mine.py:Open", folder, {}, **SHARED, extra_fields=2).common["extra_fields"]


@pytest.mark.parametrize(
    ("name", "options", "missing"),
    [
        ("Tower", {"depth": 1}, "takes no extra_fields and no extra_history. Derive"),
        ("OnlyFields", {}, "takes no extra_history. Derive"),
    ],
)
def test_architecture_without_room_for_channels(
    folder: Path, name: str, options: dict[str, Any], missing: str
) -> None:
    with pytest.raises(UserError, match=f"channels: got one that gives fields, allowed: .*{missing}"):
        user_file.build(f"models/mine.py:{name}", folder, options, **SHARED, extra_fields=1, extra_history=5)


@pytest.mark.parametrize("name", user_file.ROOM)
def test_room_for_channels_is_no_option(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"options: got '{name}', allowed: width."):
        user_file.build("models/mine.py:Roomy", folder, {name: 1}, **SHARED)
