"""A report opened in a browser."""

from __future__ import annotations

from pathlib import Path

from tests.experiments.browser import Browser

DESKTOP, PHONE = 1280, 360
"""Widths, pixels."""
SECTIONS = [
    *("overview", "family", "gap", "scores", "days", "transfer", "reliability", "adapters", "slices", "cost"),
    *("students", "wandb", "reproduce"),
]


def shown(browser: Browser, path: Path, width: int = DESKTOP, dark: bool = False) -> None:
    """Open the page; whatever the browser complains about fails the test."""
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(path, width, dark=dark)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.complaints == []
    assert browser.requests == [path.resolve().as_uri()]
