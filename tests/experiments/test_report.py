"""The report in a browser: nothing missing, nothing cut off, and the numbers are those of results.json."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import pytest
import yaml

from distill.results import read_results
from experiments.recorded import read_run
from experiments.report import write_report
from experiments.report.page import write_page
from tests.experiments.browser import Browser, chromium
from tests.experiments.report_page import DESKTOP, PHONE, SECTIONS, shown
from tests.experiments.synthetic_run import COMMIT, FINGERPRINT, NOISE, write_synthetic_run

COLUMNS = ("ne", "logloss", "auc", "gauc", "calibration")

# Every text of a picture lies within the panel's own box, and that within the window.
TEXTS_OUTSIDE = """
[...document.querySelectorAll('.panel')].flatMap(panel => {
  const box = panel.querySelector('svg').getBoundingClientRect();
  return [...panel.querySelectorAll('svg text')].filter(text => {
    const t = text.getBoundingClientRect();
    const right = Math.min(box.right + 1, innerWidth);
    return t.left < box.left - 1 || t.right > right || t.bottom > box.bottom + 1;
  }).map(text => panel.innerText + ': ' + text.textContent);
})
"""
CONTRAST = """
(() => {
  const light = color => color.match(/[0-9.]+/g).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const texts = 'p, dt, dd, td, th, li, a, caption span, .sd, .facts, .loses, h1, h2, h3, small, summary';
  const speaks = e => [...e.childNodes].some(n => n.nodeType == Node.TEXT_NODE && n.data.trim());
  return [...document.querySelectorAll(texts)].filter(speaks).map(e => {
    const ink = light(getComputedStyle(e).color);
    return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  }).reduce((least, ratio) => Math.min(least, ratio), 21);
})()
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two students, one of them on every vertical; users enough for GAUC; an adapter and the user's own set."""
    return write_synthetic_run(
        tmp_path_factory.mktemp("report") / "run",
        noise={**NOISE, "ah_adapter": 0.45, "my_channels": 0.6},
        models={"deepfm": ("feed", "reels", "stories"), "dcn": ("feed",)},
        rows_per_day=1300,
        data=True,
    )


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    return write_report(run)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One student on one vertical, something in every section, a training still to come."""
    folder = tmp_path_factory.mktemp("report") / "small"
    noise = {"teacher": 0.2, "none": 0.7, "ah_adapter": 0.5}
    write_synthetic_run(folder, noise, {"deepfm": ("feed",)}, seeds=(0,), data=True)
    (folder / "wandb").mkdir()
    shutil.rmtree(sorted((folder / "checkpoints").iterdir())[0])
    (folder / "status.json").write_text(json.dumps({"state": "running", "step": "student", "final": None}))
    return folder


def violations(browser: Browser) -> list[str]:
    """Rules of axe-core that the page breaks, with the first place of each."""
    browser.evaluate(files("axe_core_python").joinpath("axe.min.js").read_text() + "; 0")
    run = "axe.run().then(r => r.violations.map(v => `${v.id}: ${v.nodes[0].html} ${v.nodes[0].failureSummary}`))"
    return browser.evaluate(run)


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_nothing_is_cut_off(browser: Browser, page: Path, width: int) -> None:
    shown(browser, page, width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(TEXTS_OUTSIDE) == []


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read(browser: Browser, page: Path, dark: bool) -> None:
    """WCAG AA asks for 4.5."""
    shown(browser, page, dark=dark)
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(253, 253, 252)") is not dark
    assert browser.evaluate(CONTRAST) >= 4.5


# Accessibility: what can be checked by a machine


@pytest.mark.parametrize(("width", "dark", "reload"), [(DESKTOP, False, None), (PHONE, True, 100)])
def test_axe_finds_nothing_to_complain_about(
    browser: Browser, small: Path, width: int, dark: bool, reload: int | None
) -> None:
    """The page of a run under way has a bar, and a button when it is watched."""
    shown(browser, write_page(read_run(small), reload), width, dark)
    assert violations(browser) == []


def test_headings_descend_one_by_one(browser: Browser, page: Path) -> None:
    shown(browser, page)
    levels = browser.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(h => +h.tagName[1])")
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert browser.evaluate("[...document.querySelectorAll('th')].every(th => th.scope)")


def test_everything_that_scrolls_or_folds_is_reached_by_the_keyboard(browser: Browser, page: Path) -> None:
    shown(browser, page, PHONE)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    unreachable = (
        "[...document.querySelectorAll('*')].filter(e => e.scrollWidth > e.clientWidth + 1"
        " && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0).length"
    )
    assert browser.evaluate(unreachable) == 0
    assert browser.evaluate("document.querySelector('a').hash") == "#overview", (
        "the first stop skips the header"
    )
    targets = "[...document.querySelectorAll('nav a')].map(a => a.hash.slice(1))"
    assert browser.evaluate(targets) == SECTIONS


# What the page says


def test_every_section_is_there_and_described(browser: Browser, page: Path) -> None:
    shown(browser, page)
    assert browser.evaluate("[...document.querySelectorAll('main > section')].map(s => s.id)") == SECTIONS
    assert browser.evaluate("[...document.querySelectorAll('.empty')].map(n => n.innerText)") == [
        "Nothing is recorded for Weights & Biases."
    ]
    assert browser.evaluate(
        "[...document.querySelectorAll('table')].every(t => t.caption.innerText.length > 5)"
    )
    described = (
        "[...document.querySelectorAll('.panel > svg')].every(s => s.getAttribute('aria-label').length > 40)"
    )
    assert browser.evaluate(described)
    # 4 students, 2 tasks: gap, cost, reliability; NE, its difference, AUC by day; 3 measures of deepfm and dcn on feed;
    # size, gain and a shift per task of 4 students' adapters.
    kinds = ("gap", "cost", "reliability", "day", "transfer", "correction")
    counts = [
        browser.evaluate(f"document.querySelectorAll('.{kind}-figure .panel').length") for kind in kinds
    ]
    assert counts == [8, 8, 8, 24, 12, 16]


def test_scores_are_those_of_results(browser: Browser, run: Path, page: Path) -> None:
    shown(browser, page)
    cells = browser.evaluate(
        "[...document.querySelectorAll('#scores td[data-cell]')].map(td => [td.closest('table'), td]).map("
        "([t, td]) => [t.dataset.vertical, t.dataset.task, td.dataset.cell, td.dataset.column,"
        "+td.querySelector('data').value])"
    )
    found = {tuple(place): value for *place, value in cells}
    per_seed: dict[tuple[str, ...], list[float | None]] = defaultdict(list)
    for row in read_results(run / "results.json")["rows"]:
        for column in COLUMNS:
            per_seed[row["vertical"], row["task"], row["cell_id"], column].append(row[column])
    defined = {place: [v for v in values if v is not None] for place, values in per_seed.items()}
    expected = {place: fmean(values) for place, values in defined.items() if len(values) == 3}
    assert len(cells) == len(found)
    assert any(place[3] == "gauc" for place in expected)
    assert found == {place: pytest.approx(value) for place, value in expected.items()}


def test_first_picture_says_the_mean_ne(browser: Browser, run: Path, page: Path) -> None:
    shown(browser, page)
    panels = browser.evaluate(
        "[...document.querySelectorAll('#gap .panel')].map(p => [p.closest('figure').dataset.task,"
        "p.querySelector('h3').innerText, [...p.querySelectorAll('.value')].map(t => t.textContent)])"
    )
    task, heading, values = panels[0]
    assert (task, heading) == ("click", "feed deepfm")
    rows = [
        r
        for r in read_results(run / "results.json")["rows"]
        if (r["vertical"], r["task"]) == ("feed", "click")
    ]
    expected = [
        fmean(r["ne"] for r in rows if (r["role"], r["channel"]) == key and r["model"] in ("gem", "deepfm"))
        for key in (
            *(("student", c) for c in ("none", "single", "ah", "ah_adapter", "my_channels")),
            ("teacher", "none"),
        )
    ]
    assert values == [f"{value:.4f}" for value in expected]


def test_transfer_ratios_are_those_of_results(browser: Browser, run: Path, page: Path) -> None:
    shown(browser, page)
    cells = browser.evaluate(
        "[...document.querySelectorAll('table.transfer tbody tr')].map(tr => [...tr.children].slice(0, 4)"
        ".map(c => c.innerText).concat([...tr.querySelectorAll('data')].map(d => +d.value)))"
    )
    rows = [
        [row["vertical"], row["task"], row["model"], row["channel"]]
        + [row[name] for name in ("tr", "delta_vm", "delta_fm") if row[name] is not None]
        for row in read_results(run / "results.json")["transfer"]
    ]
    assert sorted(map(str, cells)) == sorted(map(str, rows))


def test_reference_rows_of_a_table(browser: Browser, run: Path, page: Path) -> None:
    shown(browser, page)
    table = browser.evaluate("document.querySelector('#scores table').innerText")
    row = read_results(run / "results.json")["rows"][0]
    assert (
        f"{row['examples']:,} examples, {row['positives']:,} positives, base rate {row['base_rate']:.4f}"
        in table
    )
    assert f"{row['oracle_ne']:.4f}" in table
    assert f"{row['constant_logloss']:.4f}" in table
    assert f"{row['constant_logloss'] * row['ne'] / row['logloss']:.4f}" in table


def test_gains_of_slices_are_those_of_the_data(browser: Browser, run: Path, page: Path) -> None:
    """Every labelled tune row of a student stands in one slice; days of the world bring new items, no new users."""
    shown(browser, page)
    rows = browser.evaluate(
        "[...document.querySelectorAll('table.slices')].filter(t => t.dataset.model == 'dcn').map(t =>"
        "[t.dataset.task, [...t.tBodies[0].rows].map(r => [r.querySelector('[scope=row]').innerText,"
        "+r.querySelector('td').innerText.replace(',', '')])])"
    )
    examples = {
        row["task"]: row["examples"]
        for row in read_results(run / "results.json")["rows"]
        if (row["model"], row["vertical"]) == ("dcn", "feed")
    }
    assert [task for task, _ in rows] == ["click", "conversion"]
    for task, slices in rows:
        assert [name for name, _ in slices] == ["old user, old item", "old user, new item"]
        assert sum(count for _, count in slices) == examples[task]


def test_family_names_every_student_and_set(browser: Browser, page: Path) -> None:
    shown(browser, page)
    members = browser.evaluate(
        "[...document.querySelectorAll('.members > .member')].map(m => [m.querySelector('b').innerText,"
        "...[...m.querySelectorAll('.links > li > b')].map(b => b.innerText)])"
    )
    sets = ["single", "ah", "ah_adapter", "my_channels"]
    assert members == [["deepfm", *sets], ["dcn", *sets]]
    assert "12.9 M parameters" in browser.evaluate("document.querySelector('.member.teacher').innerText")


def test_settings_of_a_student_are_yaml(browser: Browser, run: Path, page: Path) -> None:
    shown(browser, page)
    texts = browser.evaluate("[...document.querySelectorAll('#students code')].map(c => c.innerText)")
    config = yaml.safe_load((run / "config.yaml").read_text())
    for text, settings in zip(texts, config["students"], strict=True):
        excerpt = yaml.safe_load(text)
        assert excerpt["students"] == [settings]
        assert excerpt["channels"] == {name: {name: {}} for name in settings["channels"]}


def test_commands_to_do_it_again(browser: Browser, run: Path, page: Path) -> None:
    shown(browser, page)
    commands = browser.evaluate("document.querySelector('#reproduce pre').innerText").splitlines()
    assert commands[0] == f"git checkout {COMMIT}"
    assert commands[-1] == f"distill run {run}/config.yaml --set output={run}-again"
    assert FINGERPRINT in browser.evaluate("document.querySelector('table.versions').innerText")


def test_without_its_data_set_the_page_says_so(browser: Browser, tmp_path: Path) -> None:
    shown(browser, write_report(write_synthetic_run(tmp_path / "run", seeds=(0,))))
    said = browser.evaluate("document.querySelector('#slices .empty').innerText")
    assert said.startswith(
        "The prepared data set of this run, which says who and what is new, is not where it was."
    )


def test_page_is_one_small_file(page: Path) -> None:
    assert page.name == "report.html"
    assert page.stat().st_size < 3_000_000
    text = page.read_text()
    assert "<script" not in text and "http" not in text.replace("http-equiv", "")
