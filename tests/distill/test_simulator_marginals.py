"""The simulator's defaults beside KuaiRand-Pure: the marginals that were matched, in one table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.csv as csv
import pytest

from distill.config import DataConfig
from distill.describe import describe
from distill.progress import NoProgress
from distill.sources.config import SimulatorConfig
from distill.sources.simulator import prepare

REAL = (
    Path(__file__).parents[2]
    / ".."
    / "shared"
    / "data"
    / "kuairand_pure"
    / "log_standard_4_22_to_5_08_pure.csv"
)
# The surface that stands for each tab.
TABS = {"feed": 1, "explore": 0, "stories": 4, "search": 6, "inbox": 2}
LEVELS = (0.5, 0.75, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Line:
    """One marginal: how far the simulated value may be from the real one, absolute or as a share of it."""

    name: str
    real: float
    simulated: float
    absolute: float = 0.0
    relative: float = 0.0

    @property
    def fits(self) -> bool:
        return abs(self.simulated - self.real) <= self.absolute + self.relative * self.real

    def __str__(self) -> str:
        mark = " " if self.fits else "X"
        return f"{mark} {self.name:28s} KuaiRand {self.real:12.4f}   simulator {self.simulated:12.4f}"


def read_real() -> dict[str, np.ndarray]:
    """The five tabs' rows without exact repetitions, column by column."""
    table = csv.read_csv(REAL)
    log = {name: table[name].to_numpy() for name in table.column_names}
    keys = np.stack([log["user_id"], log["video_id"], log["time_ms"]], axis=1)
    first = np.sort(np.unique(keys, axis=0, return_index=True)[1])
    first = first[np.isin(log["tab"][first], list(TABS.values()))]
    return {name: values[first] for name, values in log.items()}


def inequality(counts: np.ndarray) -> float:
    """Gini: twice the area between the Lorenz curve and the diagonal."""
    lorenz = np.concatenate([[0.0], np.cumsum(np.sort(counts)) / counts.sum()])
    return float(1 - 2 * np.trapezoid(lorenz, dx=1 / len(counts)))


def daily_drift(click: np.ndarray, day: np.ndarray) -> float:
    """Standard deviation of daily rates beyond that of coin tosses."""
    rates = np.array([click[day == d].mean() for d in np.unique(day)])
    tosses = np.mean([click.mean() * (1 - click.mean()) / (day == d).sum() for d in np.unique(day)])
    return float(np.sqrt(max(rates.var(ddof=1) - tosses, 0)))


def surface_lines(real: dict[str, np.ndarray], simulated: dict) -> list[Line]:
    lines = []
    for name, tab in TABS.items():
        of, found = real["tab"] == tab, simulated["domains"][name]
        click = real["is_click"][of]
        converted = (click * real["long_view"][of]).sum() / click.sum()
        lines += [
            Line(f"{name}: share of rows", of.mean(), found["share"], absolute=0.01),
            Line(f"{name}: users", len(np.unique(real["user_id"][of])), found["users"], relative=0.12),
            Line(f"{name}: click rate", click.mean(), found["tasks"]["click"]["rate"], absolute=0.02),
            Line(
                f"{name}: conversions per click",
                converted,
                found["tasks"]["conversion"]["rate_given_first"],
                absolute=0.03,
            ),
            Line(
                f"{name}: drift of click rate",
                daily_drift(click, real["date"][of]),
                found["tasks"]["click"]["drift"],
                absolute=0.02,
            ),
        ]
    return lines


def count_lines(kind: str, ids: np.ndarray, found: dict, quantiles: float) -> list[Line]:
    counts = np.unique(ids, return_counts=True)[1]
    falling = np.sort(counts)[::-1]
    lines = [
        Line(f"{kind}: number", len(counts), found["count"], relative=0.05),
        Line(f"{kind}: Gini", inequality(counts), found["gini"], absolute=0.03),
        Line(
            f"{kind}: top 1 %", falling[: len(falling) // 100].sum() / len(ids), found["top_1_percent"], 0.05
        ),
        Line(
            f"{kind}: top 10 %", falling[: len(falling) // 10].sum() / len(ids), found["top_10_percent"], 0.03
        ),
    ]
    values = zip(LEVELS, np.quantile(counts, LEVELS), strict=True)
    return lines + [
        Line(f"{kind}: rows, {level:.0%} quantile", value, found["quantiles"][level], 1.0, quantiles)
        for level, value in values
    ]


@pytest.mark.skipif(not REAL.is_file(), reason="needs KuaiRand-Pure beside the project")
def test_the_defaults_resemble_kuairand(tmp_path: Path) -> None:
    # The log is the same without its history, which only takes time here.
    config = replace(SimulatorConfig(), history_events=0.0)
    prepare(config, DataConfig(), tmp_path / "simulated", NoProgress())
    simulated, real = describe(tmp_path / "simulated"), read_real()
    pairs = np.unique(real["user_id"] * 100 + real["tab"]) // 100
    several = float((np.unique(pairs, return_counts=True)[1] > 1).mean())
    sizes = np.unique(real["date"], return_counts=True)[1]
    found_sizes = np.array(simulated["rows_per_day"])
    lines = [
        Line("rows", len(real["tab"]), simulated["rows"], relative=0.03),
        Line(
            "variation of rows per day",
            sizes.std() / sizes.mean(),
            found_sizes.std() / found_sizes.mean(),
            0.08,
        ),
        Line("users on several surfaces", several, 1 - simulated["domains_per_user"][0], absolute=0.03),
        *surface_lines(real, simulated),
        *count_lines("users", real["user_id"], simulated["users"], quantiles=0.05),
        *count_lines("items", real["video_id"], simulated["items"], quantiles=0.15),
    ]
    table = "\n".join(map(str, lines))
    print(table)
    assert all(line.fits for line in lines), f"X = too far from KuaiRand\n{table}"
