"""Help from docstrings; every field of every config is documented."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import pytest

import experiments.catalog  # noqa: F401  fills the registries
from distill.config import ExperimentConfig
from distill.fields import attribute_texts, describe, field_help
from distill.registry import CHANNELS, SOURCES, STUDENTS, TEACHERS


@dataclass
class Base:
    """A base.

    Attributes:
        old: from the base.
    """

    old: int = 1


@dataclass
class Inner:
    """Inside.

    Attributes:
        depth: how deep.
    """

    depth: int = 2


@dataclass
class Example(Base):
    """An example.

    Attributes:
        name: what it is called: a word.
        low, high: two numbers in one entry,
            over two lines.
        inner: a section.
        several: a list of sections.
        flag (bool): its type is said.

    Raises:
        ValueError: not an attribute.
    """

    name: str = "???"
    low: float = 0.5
    high: float | None = None
    inner: Inner = field(default_factory=Inner)
    several: list[Inner] = field(default_factory=list)
    flag: bool = True


def test_texts_of_a_docstring_and_its_base() -> None:
    assert attribute_texts(Example) == {
        "old": "from the base.",
        "name": "what it is called: a word.",
        "low": "two numbers in one entry, over two lines.",
        "high": "two numbers in one entry, over two lines.",
        "inner": "a section.",
        "several": "a list of sections.",
        "flag": "its type is said.",
    }


def test_help_on_fields() -> None:
    helps = {help_.name: help_ for help_ in field_help(Example)}
    assert list(helps) == ["old", "name", "low", "high", "inner", "several", "flag"]
    assert helps["name"].default == "required"
    assert (helps["low"].kind, helps["low"].default) == ("a finite number", "0.5")
    assert (helps["high"].kind, helps["high"].default) == ("a finite number or null", "null")
    assert helps["inner"].section is helps["several"].section is Inner
    assert helps["flag"].default == "true"


def test_describe_indents_sections() -> None:
    assert describe(Inner) == "  depth (a whole number; 2): how deep."
    lines = describe(Example).splitlines()
    assert lines[0] == "  old (a whole number; 1): from the base."
    assert lines[4:6] == ["  inner: a section.", "      depth (a whole number; 2): how deep."]


def test_a_class_without_fields_says_nothing() -> None:
    @dataclass
    class Empty:
        """Nothing to set."""

    assert describe(Empty) == ""


CONFIGS = [ExperimentConfig] + [
    entry.config for registry in (SOURCES, TEACHERS, STUDENTS, CHANNELS) for entry in registry.entries()
]


@pytest.mark.parametrize("config_class", CONFIGS, ids=lambda config_class: config_class.__name__)
def test_every_field_of_a_config_is_documented(config_class: type) -> None:
    sections = [config_class]
    for section in sections:
        for help_ in field_help(section):
            assert help_.text, f"{section.__name__}.{help_.name}"
            sections += [help_.section] if help_.section else []
        names = {item.name for item in dataclasses.fields(section)}
        assert set(attribute_texts(section)) <= names, "a text without its field"
