"""What the benchmark of checkpoints, memory and stops makes of its measurements."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from experiments.benchmarks.survive import MIB, growth, of_memory, of_time, resident


def test_growth_of_a_line_and_of_noise() -> None:
    days = np.arange(3, 21)
    assert growth(days, 700 + 0.25 * days) == pytest.approx((0.25, 0.25, 0.25))
    low, high = growth(days, 700 + (-1.0) ** days)[1:]
    assert low < 0 < high


def test_memory_that_grows_with_its_predictions_alone_is_flat() -> None:
    predicted = 2 * MIB
    noise = [(-1) ** day * 1000 for day in range(1, 21)]
    flat = [700 * MIB + day * predicted + noise[day - 1] for day in range(1, 21)]
    *days, found = of_memory(flat, predicted)
    assert [one["day"] for one in days] == list(range(1, 21)) and days[0]["value"] == pytest.approx(702, 0.01)
    assert found["met"] and abs(found["value"]) < 1e-3
    leaking = [bytes_ + day * MIB for day, bytes_ in enumerate(flat)]
    assert not of_memory(leaking, predicted)[-1]["met"]


def test_share_of_checkpoints() -> None:
    report = {"seconds": 200.0, "checkpoints": {"made": 4, "seconds": 12.0}}
    share, one, _ = of_time(report)
    assert (share["value"], share["met"], one["value"]) == (6.0, False, 3.0)
    with pytest.raises(RuntimeError, match="ended after 200 s, before a checkpoint was due"):
        of_time(report | {"checkpoints": {"made": 0, "seconds": 0.0}})


def test_resident_memory_is_that_of_this_process() -> None:
    """Of pages that are new to the process: an array may lie where another was freed."""
    before = resident()
    with mmap.mmap(-1, 32 * MIB) as pages:
        pages.write(b"1" * len(pages))
        assert 31 * MIB < resident() - before < 96 * MIB
