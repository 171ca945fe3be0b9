"""`distill report --watch`: the page follows the run, reloads itself while it runs, and can be paused."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.recorded import read_run
from experiments.report import write_report
from experiments.report.page import REPORT, write_page
from experiments.watch import SECONDS, watch
from tests.experiments.browser import Browser, chromium
from tests.experiments.synthetic_run import write_synthetic_run


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_run(tmp_path_factory.mktemp("watch") / "run", seeds=(0,))


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A run under way, nothing scored."""
    shutil.copytree(written, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    state(tmp_path / "run", "running")
    return tmp_path / "run"


def state(folder: Path, name: str) -> None:
    (folder / "status.json").write_text(json.dumps({"state": name, "step": "student", "final": None}))


def test_pages_are_written_until_the_run_has_ended(folder: Path, written: Path) -> None:
    pages, times = [], []

    def wait(seconds: float) -> None:
        """First nothing happens, then a training ends, then the run."""
        assert seconds == SECONDS
        pages.append((folder / REPORT).read_text())
        times.append((folder / REPORT).stat().st_mtime_ns)
        match len(pages):
            case 2:
                shutil.rmtree(sorted((folder / "checkpoints").iterdir())[0])
            case 3:
                shutil.copy(written / "results.json", folder)
                state(folder, "done")

    assert watch(folder, wait) == folder / REPORT
    assert times[0] == times[1] < times[2], "it is not written anew for nothing"
    assert all("location.reload" in page for page in pages)
    assert ["10 of 10 trainings" in page for page in pages] == [True, True, False]
    last = (folder / REPORT).read_text()
    assert "<script" not in last and "Nothing is scored yet." not in last


def test_ctrl_c_leaves_a_page_that_stays(folder: Path) -> None:
    def wait(seconds: float) -> None:
        raise KeyboardInterrupt

    assert "<script" not in watch(folder, wait).read_text()


def test_a_run_that_has_ended_is_written_once(folder: Path) -> None:
    state(folder, "interrupted")

    def wait(seconds: float) -> None:
        raise AssertionError("there is nothing to wait for")

    assert "This run was interrupted" in watch(folder, wait).read_text()


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


def until(browser: Browser, expression: str) -> None:
    """Wait for an expression to be true, across a reload."""
    for _ in range(100):
        if browser.evaluate(expression):
            return
        time.sleep(0.05)
    raise AssertionError(f"never true: {expression}")


def test_the_page_loads_itself_anew_and_keeps_its_place(browser: Browser, folder: Path) -> None:
    browser.complaints.clear()
    browser.open(write_page(read_run(folder), reload=1), 1280)
    browser.evaluate("document.querySelector('details').open = true")
    browser.evaluate("window.first = true, scrollTo(0, 200)")
    until(browser, "!window.first && document.readyState == 'complete'")
    assert browser.evaluate("document.querySelector('details').open")
    assert browser.evaluate("scrollY") == 200
    assert browser.complaints == []


def test_a_paused_page_stays(browser: Browser, folder: Path) -> None:
    browser.open(write_page(read_run(folder), reload=1), 1280)
    browser.evaluate("window.first = true, document.getElementById('pause').click()")
    assert browser.evaluate("document.getElementById('pause').textContent") == "Continue"
    time.sleep(1.3)
    assert browser.evaluate("window.first")
    browser.evaluate("document.getElementById('pause').click()")
    until(browser, "!window.first")


def test_an_ordinary_report_of_a_running_experiment_does_not_reload(folder: Path) -> None:
    assert "<script" not in write_report(folder).read_text()
