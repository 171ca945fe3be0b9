"""The picture of the transfer study, of ratios that are made up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from experiments.studies.transfer.file import Transfer
from experiments.studies.transfer.picture import transfer_picture
from tests.experiments.tiny_experiment import TASKS

SVG = "{http://www.w3.org/2000/svg}"


def drawn(tmp_path: Path, ratios: dict[str, tuple[float, float, float] | None]) -> ElementTree.Element:
    """The picture of made-up ratios, the same for both tasks."""
    rows = [
        {
            **{"model": "thin", "inputs": "thin", "schedule": "progressive", "lag": 1, "route": "direct"},
            **{"vertical": "macro", "measure": "ne", "channel": channel, "task": task, "seeds": 5},
            **dict(zip(("tr", "tr_low", "tr_high"), found or (None, None, None), strict=True)),
        }
        for channel, found in ratios.items()
        for task in TASKS
    ]
    elsewhere = [
        row | change for row in rows for change in ({"lag": 3}, {"measure": "auc"}, {"vertical": "feed"})
    ]
    schedule = SimpleNamespace(kind="progressive", lag=1)
    experiment: Any = SimpleNamespace(config=SimpleNamespace(schedule=schedule, channels=["none", *ratios]))
    transfer_picture(Transfer(data="made_up"), experiment, [*rows, *elsewhere], tmp_path / "p.svg")
    return ElementTree.parse(tmp_path / "p.svg").getroot()


RATIOS: dict[str, tuple[float, float, float] | None] = {
    "single": (0.1, 0.0, 0.2),
    "ah": (0.2, 0.1, 0.3),
    "all": (0.6, 0.5, 0.7),
}


def texts(root: ElementTree.Element) -> list[str | None]:
    return [element.text for element in root.iter(f"{SVG}text")]


def test_the_picture_has_a_mark_for_every_channel_and_task(tmp_path: Path) -> None:
    root = drawn(tmp_path, RATIOS)
    dots = [float(dot.attrib["cx"]) for dot in root.findall(f".//{SVG}circle[@class='dot']")]
    assert len(dots) == len(RATIOS) * len(TASKS)
    single, plain, whole = dots[:3]
    assert plain - single == pytest.approx((whole - plain) / 4, abs=0.05), "one scale for all"
    dashed = [line for line in root.iter(f"{SVG}line") if line.attrib["class"] == "curve"]
    assert len(dashed) == len(TASKS) and texts(root).count("2 × ah") == len(TASKS)
    assert float(dashed[0].attrib["x1"]) == pytest.approx(plain + (whole - plain) / 2, abs=0.05)
    assert {"made_up: how much of the teacher's gain reaches the students (0: nothing, 1: all of it)"} <= set(
        texts(root)
    )
    assert texts(root).count("0.60") == 2 and texts(root).count("all") == 1


def test_a_long_interval_ends_in_an_arrow(tmp_path: Path) -> None:
    root = drawn(tmp_path, RATIOS | {"all": (0.6, -40.0, 80.0)})
    assert len(root.findall(f".//{SVG}path")) == 2 * len(TASKS)
    xs = [float(line.attrib[end]) for line in root.iter(f"{SVG}line") for end in ("x1", "x2")]
    assert all(0 <= x <= 700 for x in xs)


def test_ah_that_brings_nothing_has_no_double(tmp_path: Path) -> None:
    root = drawn(tmp_path, RATIOS | {"ah": (-0.1, -0.2, 0.0)})
    assert "2 × ah" not in texts(root)
    assert "−0.10" in texts(root)


def test_ratios_that_are_undefined_are_said_to_be(tmp_path: Path) -> None:
    root = drawn(tmp_path, dict.fromkeys(RATIOS))
    assert not root.findall(f".//{SVG}circle")
    assert texts(root).count("No ratio: the teacher's own gain") == len(TASKS)
