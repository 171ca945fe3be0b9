"""Settings of parameter sharing that make no sense, each refused by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapters.sharing_config import SharingConfig
from distill.errors import ConfigErrors, UserError
from distill.findings import Findings
from distill.strict_yaml import Document
from distill.structured import build, checked, to_plain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 6}, "sharing.dim: got 6, allowed: a multiple of 4"),
        ({"dim": 0}, "sharing.dim: got 0"),
        ({"table_learning_rate": 0.0}, "sharing.table_learning_rate: got 0.0, .*copies: frozen"),
        ({"first_day": -1}, "sharing.first_day: got -1"),
        ({"tables": ["a", "b", "a"]}, "sharing.tables: got a, b, a, allowed: every feature once"),
        (
            {"copies": "initial", "projection": "learned"},
            "sharing.projection: got 'learned', allowed with copies: initial: none, or svd",
        ),
        ({"copies": "none"}, "sharing.copies: got 'none' without `modules`"),
        (
            {"copies": "none", "tables": ["a"], "modules": {"a": "a"}},
            "sharing.tables: got a, .*an empty list",
        ),
        ({"copies": "none", "vocabularies": {"a": {}}}, "sharing.vocabularies: got a, .*an empty mapping"),
        ({"freeze_modules": True}, "sharing.freeze_modules: got true without `modules`"),
        (
            {"snapshot": "nowhere.safetensors"},
            "sharing.snapshot: got 'nowhere.safetensors', allowed: an existing",
        ),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SharingConfig(**options)


def test_vocabularies_as_a_file_writes_them(tmp_path: Path) -> None:
    (tmp_path / "ids.npy").touch()
    file = str(tmp_path / "ids.npy")
    options = {"vocabularies": {"item_id": {"teacher": file, "student": file}}}
    config = build(SharingConfig, options)
    assert config.vocabularies["item_id"].teacher == file
    assert build(SharingConfig, to_plain(config)) == config
    with pytest.raises(
        UserError, match="sharing.vocabularies.item_id.student: got 'none.npy', allowed: an existing"
    ):
        build(SharingConfig, {"vocabularies": {"item_id": {"teacher": file, "student": "none.npy"}}})


def test_half_a_vocabulary() -> None:
    findings = Findings()
    findings.place((), Document("a.yaml", {}, Path()))
    checked({"vocabularies": {"item_id": {"student": "ids.npy"}}}, SharingConfig, (), findings)
    with pytest.raises(ConfigErrors, match="vocabularies.item_id.teacher: got nothing"):
        findings.raise_any()
