"""From a config to a model: content vectors go to the architectures that read them, and to no other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import experiments.catalog  # noqa: F401  fills the registries
from distill.config import OptimizerConfig, StudentConfig
from distill.errors import UserError
from distill.registry import STUDENTS, Entry
from experiments.benchmarks.synthetic import make_schema
from experiments.pipeline.build import build_model

SCHEMA = make_schema([7, 5], content={"image": 4})


def given(monkeypatch: pytest.MonkeyPatch, content: list[str]) -> dict[str, Any]:
    """What the builder of an architecture that reads content is given."""
    found: dict[str, Any] = {}
    entry = Entry("seeing", SimpleNamespace, "nowhere:build", "", reads=("content",))
    monkeypatch.setitem(STUDENTS._entries, "seeing", entry)
    monkeypatch.setattr(Entry, "load", lambda self: lambda config, **shared: found.update(shared))
    monkeypatch.setattr("experiments.pipeline.build.build", lambda config, options: None)
    build(StudentConfig(name="s", architecture="seeing", content=content))
    return found


def build(student: StudentConfig) -> Any:
    return build_model("student", student, OptimizerConfig(), SCHEMA, 0, Path())


def test_content_is_given_to_who_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert given(monkeypatch, ["image"])["content"] == ("image",)


def test_without_content_nothing_is_said_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "content" not in given(monkeypatch, [])


@pytest.mark.parametrize("architecture", ["dlrm", "deepfm", "dcn_v2", "din"])
def test_built_in_students_read_no_content(architecture: str) -> None:
    student = StudentConfig(name="s", architecture=architecture, content=["image"])
    with pytest.raises(
        UserError, match=f"content: got image, allowed: nothing, the architecture '{architecture}'"
    ):
        build(student)
