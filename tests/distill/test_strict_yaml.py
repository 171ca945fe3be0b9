"""YAML for configs: plain values, nothing constructed, nothing silently dropped."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from distill.errors import ConfigErrors
from distill.strict_yaml import MAX_BYTES, parse, read


def refused(text: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        parse(text, "f.yaml", Path())
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-12_000", -12000),
        ("010", "010"),
        ("1:30", "1:30"),
        ("0x10", "0x10"),
        ("1e-3", 0.001),
        ("1.5", 1.5),
        ("-.5E+2", -50.0),
        (".inf", float("inf")),
        ("true", True),
        ("yes", "yes"),
        ("off", "off"),
        ("null", None),
        ("~", None),
        ("", None),
        ("none", "none"),
        ("2026-01-01", "2026-01-01"),
        ("'1'", "1"),
        ("[1, a]", [1, "a"]),
        ("{<<: {a: 1}}", {"<<": {"a": 1}}),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    content = parse(text, "f.yaml", Path()).content
    assert content == value and type(content) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: !!python/object/apply:os.system ['touch x']",
            "f.yaml:1: YAML: got the tag tag:yaml.org,2002:python/object/apply:os.system; "
            "allowed: plain values without tags.",
        ),
        ("a: !mine 1", "f.yaml:1: YAML: got the tag !mine; allowed: plain values without tags."),
        ("a: 1\na: 2", "f.yaml:2: YAML: got the key 'a' a second time; allowed: every key once."),
        ("\n1: x", "f.yaml:2: YAML: got the key '1'; allowed: text as a key (quote it)."),
        ("a: 1\n---\nb: 2", "readable YAML: one document of `key: value` lines."),
        (
            "a: [1",
            "f.yaml:1: YAML: got text that cannot be read: expected ',' or ']', but got '<stream end>';",
        ),
        ("a:\n\t- 1", "readable YAML"),
        ("a: \x00", "readable YAML"),
        ('a: "x\\ud800"', "f.yaml:1: YAML: got half a Unicode character; allowed: text that UTF-8 can hold."),
        ("a: *b", "f.yaml:1: YAML: got the alias *b; allowed: the value written out."),
        (
            f"a: {'9' * 5000}",
            "f.yaml:1: YAML: got a number of 5000 digits; allowed: numbers of ordinary length.",
        ),
        ("[" * 40 + "]" * 40, "f.yaml:1: YAML: got deeper nesting; allowed: at most 32 levels."),
    ],
)
def test_refused(text: str, message: str) -> None:
    (problem,) = refused(text)
    assert message in problem


def test_everything_refused_is_told_at_once() -> None:
    assert [problem[:9] for problem in refused("a: &x 1\nb: *x\nc: !t 2")] == [
        "f.yaml:1:",
        "f.yaml:2:",
        "f.yaml:3:",
    ]


def test_a_bomb_of_anchors_costs_nothing() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20)]
    start = time.perf_counter()
    assert "the anchor &a0" in refused("\n".join(lines))[0]
    assert time.perf_counter() - start < 2


def test_deep_nesting_is_no_recursion_error() -> None:
    (problem,) = refused("[" * 100_000)
    assert "deeper nesting" in problem


def test_lines_of_keys() -> None:
    document = parse("a: 1\nb:\n  c:\n    - x\n    - y: 2\n", "f.yaml", Path())
    assert document.lines[("a",)] == 1
    assert document.lines[("b", "c")] == 3
    assert document.lines[("b", "c", 1, "y")] == 5


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: caf\xe9".encode("latin-1"))
    with pytest.raises(ConfigErrors, match="not UTF-8"):
        read(latin)
    large = tmp_path / "large.yaml"
    large.write_text("# " + "x" * MAX_BYTES)
    with pytest.raises(ConfigErrors, match=f"at most {MAX_BYTES} bytes"):
        read(large)
