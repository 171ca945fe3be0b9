"""The report of a run that is final, losing, unfinished, or strange: it says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.errors import UserError
from distill.results import read_results
from experiments.report import write_report
from tests.experiments.browser import Browser, chromium
from tests.experiments.report_page import PHONE, SECTIONS, shown
from tests.experiments.synthetic_run import NOISE, write_synthetic_run


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


def test_final_run_says_so(tmp_path: Path) -> None:
    text = write_report(write_synthetic_run(tmp_path / "run", seeds=(0,), final=True)).read_text()
    assert "final scores" in text and "development scores" not in text
    assert "days 12–14" in text and "day 14: " in text


def test_test_days_stay_unread_without_final(tmp_path: Path) -> None:
    """Predictions of the test days may lie there; a run that has not scored them does not draw them."""
    folder = write_synthetic_run(tmp_path / "run", seeds=(0,), final=True)
    results = json.loads((folder / "results.json").read_text())
    for key in ("rows", "transfer"):
        results[key] = [row for row in results[key] if row["split"] == "tune"]
    (folder / "results.json").write_text(json.dumps(results))
    text = write_report(folder).read_text()
    assert "development scores" in text and "days 9–11" in text
    assert "day 11: " in text and "day 12: " not in text


def test_losing_model_is_marked(tmp_path: Path) -> None:
    folder = write_synthetic_run(tmp_path / "run", noise={"teacher": 0.2, "none": 4.0, "ah": 0.3}, seeds=(0,))
    text = write_report(folder).read_text()
    rows = [
        row
        for row in read_results(folder / "results.json")["rows"]
        if row["logloss"] > row["constant_logloss"]
    ]
    assert {row["channel"] for row in rows} == {"none"}
    assert text.count('student losing"') == len(rows) == 8  # three verticals and pooled, two tasks


def test_floor_is_scored_but_not_a_step_from_student_to_teacher(browser: Browser, tmp_path: Path) -> None:
    folder = write_synthetic_run(tmp_path / "run", noise={**NOISE, "floor": 0.6}, seeds=(0,))
    shown(browser, write_report(folder))
    assert "floor" in browser.evaluate("document.querySelector('#scores table').innerText")
    assert "floor" in browser.evaluate("document.querySelector('#days svg').textContent")
    assert "floor" not in browser.evaluate("document.querySelector('#gap').textContent")
    assert "floor" not in browser.evaluate("document.querySelector('#cost').textContent")


def test_undefined_ratio_says_so(browser: Browser, tmp_path: Path) -> None:
    """A teacher that is no better than `none`: nothing to take a share of."""
    folder = write_synthetic_run(tmp_path / "run", noise={"teacher": 0.75, "none": 0.75, "ah": 0.5})
    shown(browser, write_report(folder))
    ratios = [row["tr"] for row in read_results(folder / "results.json")["transfer"]]
    assert None in ratios
    assert browser.evaluate("document.querySelectorAll('table.transfer i').length") == ratios.count(None)
    assert "undefined" in browser.evaluate("document.querySelector('#transfer svg').textContent")


def test_run_without_scores_still_has_a_page(browser: Browser, tmp_path: Path) -> None:
    folder = write_synthetic_run(tmp_path / "run", seeds=(0, 1))
    (folder / "results.json").unlink()
    shutil.rmtree(sorted((folder / "checkpoints").iterdir())[0] / "1")
    (folder / "status.json").write_text(
        json.dumps({"state": "interrupted", "step": "student", "final": None})
    )
    shown(browser, write_report(folder), PHONE)
    assert browser.evaluate("[...document.querySelectorAll('main > section')].map(s => s.id)") == SECTIONS
    said = browser.evaluate("document.querySelector('header').innerText")
    # A teacher and 3 x 3 students, two seeds each.
    assert "This run was interrupted. 19 of 20 trainings are finished; nothing is scored yet." in said
    assert browser.evaluate("document.documentElement.scrollWidth") <= PHONE


def test_run_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    folder = write_synthetic_run(tmp_path / "run", seeds=(0,))
    for name in ("results.json", "cells.csv"):
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoints")
    assert "0 of 10 trainings are finished" in write_report(folder).read_text()


def test_names_cannot_break_the_page(browser: Browser, tmp_path: Path) -> None:
    name = "<script>alert('&\"')</script>"
    folder = write_synthetic_run(tmp_path / "run", models={name: ("feed",)}, seeds=(0,), name=name)
    shown(browser, write_report(folder))
    assert browser.evaluate("document.scripts.length") == 0
    assert browser.evaluate("document.querySelector('h1').innerText") == name
    assert browser.evaluate("document.querySelector('.panel small').innerText") == name


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="allowed: the `output` of an experiment"):
        write_report(tmp_path)
