"""Tables of benchmarks: where they lie, what is in them, and that an earlier one survives a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.benchmarks import results


def test_table_takes_the_place_of_an_earlier_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    path = results.save("chaos", ("fault", "identical"), [{"identical": True, "fault": "full, disk"}])
    assert path == tmp_path / "chaos.csv"
    assert path.read_bytes() == b'fault,identical\n"full, disk",True\n'
    results.save("chaos", ("fault",), [])
    assert path.read_bytes() == b"fault\n"

    with pytest.raises(ValueError, match="moment"):
        results.save("chaos", ("fault",), [{"fault": "kill"}, {"moment": 0.5}])
    assert path.read_bytes() == b"fault\n" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", "intel_xeon_e5_2680_v4"),
        ("AMD EPYC Processor", "amd_epyc"),
    ],
)
def test_machine_is_named_by_its_processor(
    model: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: {model}\nflags\t: fpu\n")
    monkeypatch.setattr(results, "CPUINFO", cpuinfo)
    assert results.machine() == name
