"""The peak: measured on this CPU, stated for known GPUs, not guessed for others."""

from __future__ import annotations

import pytest
import torch

from distill import peak
from distill.peak import GPUS, measure_cpu, peak_flops

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_cpu_is_measured_once(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = peak_flops(CPU, precision)
    assert first is not None and first > 1e8
    monkeypatch.setattr(peak, "_SIZE", 1)  # another measurement would give another number
    assert peak_flops(CPU, precision) == first


def test_another_number_of_threads_is_another_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(peak, "measure_cpu", lambda precision, threads: asked.append((precision, threads)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    peak_flops(CPU, "bf16")
    assert asked == [("bf16", 7)]


def test_measuring_takes_no_random_number() -> None:
    generator = torch.get_rng_state()
    measure_cpu.__wrapped__("fp32", 1)
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize(
    ("name", "precision", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5e12),
        ("NVIDIA H100 80GB HBM4", "bf16", None),
    ],
)
def test_gpus_are_known_by_their_name(
    name: str, precision: str, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda", 0), precision) == expected


def test_bf16_is_faster_on_every_known_gpu() -> None:
    assert all(0 < peaks["fp32"] < peaks["bf16"] for peaks in GPUS.values())


def test_other_devices_are_not_guessed() -> None:
    assert peak_flops(torch.device("meta"), "fp32") is None
