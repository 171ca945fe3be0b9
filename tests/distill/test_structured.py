"""Plain values against dataclasses: what fits, what is reported, what is built."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from distill.config import OMITTED
from distill.findings import Findings
from distill.strict_yaml import Document
from distill.structured import INVALID, build, checked, to_plain, type_name


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass
class Part:
    size: int
    names: list[str] = field(default_factory=list)


@dataclass
class Whole:
    colour: Colour = Colour.RED
    part: Part | None = None
    pair: tuple[int, ...] = (1, 2)
    either: int | str = 3
    weights: dict[str, float] = field(default_factory=dict)
    how: Literal["a", "b"] = "a"


def look(value: Any, annotation: Any) -> tuple[Any, list[str]]:
    findings = Findings()
    findings.place((), Document("f", value, Path()))
    result = checked(value, annotation, ("k",), findings)
    return result, [str(problem) for _, _, problem in findings._found]


@pytest.mark.parametrize(
    ("value", "annotation", "result"),
    [
        (4, str, "4"),
        (4, float, 4.0),
        (None, int | None, None),
        ("x", int | str, "x"),
        ("RED", Colour, "RED"),
        ("b", Literal["a", "b"], "b"),
        ([1, 2], tuple[int, ...], [1, 2]),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        ({"a": [1, {"b": None}]}, Any, {"a": [1, {"b": None}]}),
        ({"size": 1}, Part, {"size": 1}),
    ],
)
def test_what_fits(value: Any, annotation: Any, result: Any) -> None:
    assert look(value, annotation) == (result, [])


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        (True, int, "f: k: got true; allowed: a whole number."),
        (True, str, "f: k: got true; allowed: text."),
        (1.0, int, "f: k: got 1.0; allowed: a whole number."),
        ("1", int, "f: k: got '1'; allowed: a whole number."),
        ("1", float, "f: k: got '1'; allowed: a finite number."),
        (1, bool, "f: k: got 1; allowed: true or false."),
        (float("nan"), float, "f: k: got nan; allowed: a finite number."),
        (10**400, float, "f: k: got a number beyond 1.8e308; allowed: a finite number."),
        (1.5, int | str, "f: k: got 1.5; allowed: a whole number or text."),
        ("GREEN", Colour, "f: k: got 'GREEN'; allowed: RED, BLUE."),
        (True, Literal[1, 2], "f: k: got true; allowed: 1, 2."),
        ({"a": float("nan")}, Any, "f: k.a: got nan; allowed: a finite number."),
        (["${x}"], Any, "f: k[0]: got '${x}'; allowed: plain values, without ${...}."),
        ([], dict[str, int], "f: k: got []; allowed: a mapping."),
        ("abc", list[str], "f: k: got 'abc'; allowed: a list of texts. Write [abc]."),
        ({}, Part, "f: k.size: got nothing; allowed: a whole number. The key is required."),
        (
            {"size": 1, "nams": []},
            Part,
            "f: k.nams: got an unknown key; allowed: size, names. Did you mean 'names'?",
        ),
        ({"a": 1}, Part | None, "f: k.a: got an unknown key"),
        ("x" * 100, int, f"f: k: got '{'x' * 59}…; allowed: a whole number."),
    ],
)
def test_what_does_not_fit(value: Any, annotation: Any, message: str) -> None:
    _, problems = look(value, annotation)
    assert problems[0].startswith(message)


def test_what_is_right_is_kept() -> None:
    result, problems = look({"colour": "RED", "how": "c", "weights": {"x": 1, "y": "z"}}, Whole)
    assert result == {"colour": "RED", "weights": {"x": 1.0}}
    assert len(problems) == 2


def test_a_list_with_a_wrong_element_is_nothing_to_go_on() -> None:
    assert look([1, "a"], list[int])[0] is INVALID


def test_building_and_back() -> None:
    whole = build(Whole, {"colour": "BLUE", "part": {"size": 2}, "pair": [3], "weights": {"x": 1.0}})
    assert whole == Whole(Colour.BLUE, Part(2), (3,), 3, {"x": 1.0})
    assert to_plain(whole) == {
        "colour": "BLUE",
        "part": {"size": 2, "names": []},
        "pair": [3],
        "either": 3,
        "weights": {"x": 1.0},
        "how": "a",
    }


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (list[int], "a list of whole numbers"),
        (list[Part], "a list of mappings"),
        (str | None, "text or null"),
        (Colour, "RED, BLUE"),
        (dict[str, int], "a mapping"),
        (Any, "any value"),
    ],
)
def test_types_in_words(annotation: Any, words: str) -> None:
    assert type_name(annotation) == words


def test_what_is_built_twice_is_equal_and_shares_nothing() -> None:
    content = {"part": {"size": 1, "names": ["a"]}}
    first = build(Whole, content)
    first.part.names.append("b")
    assert build(Whole, content).part.names == ["a"]
    assert build(Whole, {"either": 1}).either == 1 and build(Whole, {"either": "1"}).either == "1"


@dataclass
class Grown:
    """A class that got two fields after there were configs."""

    size: int = 1
    later: int = field(default=0, metadata=OMITTED)
    part: Part = field(default_factory=lambda: Part(2), metadata=OMITTED)


@pytest.mark.parametrize(
    ("content", "plain"),
    [
        ({}, {"size": 1}),
        ({"later": 0, "part": {"size": 2}}, {"size": 1}),
        ({"later": 3}, {"size": 1, "later": 3}),
        ({"part": {"size": 4}}, {"size": 1, "part": {"size": 4, "names": []}}),
    ],
)
def test_fields_that_came_later_are_not_spoken_of_at_their_defaults(
    content: dict[str, Any], plain: Any
) -> None:
    assert to_plain(build(Grown, content)) == plain
