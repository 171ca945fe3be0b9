from __future__ import annotations

import json

import numpy as np
import pytest

from distill.results import KEYS, ROW_COLUMNS, TRANSFER_COLUMNS, ResultsError, read_results, write_results

ROW = dict.fromkeys(ROW_COLUMNS) | {"cell_id": "abc", "ne": 0.9, "seed": 0}
TRANSFER = dict.fromkeys(TRANSFER_COLUMNS) | {"tr": 0.5, "measure": "ne"}


def write(path, rows=(ROW,), transfer=(TRANSFER,), **others):
    facts = {
        "timing": {"teacher": 1.5},
        "versions": {"numpy": "2.4"},
        "git_commit": "c0ffee",
        "config_hash": "ab",
    }
    write_results(path, rows, transfer, **{**facts, **others})


def test_results_come_back(tmp_path):
    write(tmp_path / "results.json")
    found = read_results(tmp_path / "results.json")
    assert tuple(found) == KEYS
    assert found["rows"] == [ROW]
    assert found["transfer"] == [TRANSFER]
    assert (found["git_commit"], found["timing"]) == ("c0ffee", {"teacher": 1.5})


def test_undefined_scores_are_null_in_the_file(tmp_path):
    write(tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text())["rows"][0]["auc"] is None


@pytest.mark.parametrize("bad", [float("nan"), np.inf, np.float64("nan")])
def test_nan_is_refused(tmp_path, bad):
    with pytest.raises(ResultsError, match=r"rows\[1\].ne: got (nan|inf), allowed: finite, or None"):
        write(tmp_path / "results.json", rows=[ROW, ROW | {"ne": bad}])
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    ("rows", "transfer", "message"),
    [
        ([{k: v for k, v in ROW.items() if k != "auc"}], [], r"rows\[0\]: missing \['auc'\], unknown \[\]"),
        ([ROW | {"aucc": 1}], [], r"unknown \[.*aucc.*\]"),
        ([], [{"tr": 1.0}], r"transfer\[0\]: missing"),
    ],
)
def test_columns_are_exactly_the_protocols(tmp_path, rows, transfer, message):
    with pytest.raises(ResultsError, match=message):
        write(tmp_path / "results.json", rows=rows, transfer=transfer)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", r"got \[\], allowed: one object"),
        ('{"rows": []}', "missing .*'transfer'"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ResultsError, match=message):
        read_results(tmp_path / "results.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ResultsError, match="no file .*results.json"):
        read_results(tmp_path / "results.json")
