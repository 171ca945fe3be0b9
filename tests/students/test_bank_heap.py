"""What a process frees it keeps, where its C library can be told to."""

from __future__ import annotations

import logging
import platform
import resource

import pytest
import torch

from students.bank import heap


@pytest.fixture(autouse=True)
def asked_anew() -> None:
    heap.keep_freed_memory.cache_clear()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_freed_memory_is_taken_again_without_page_faults() -> None:
    assert heap.keep_freed_memory()
    size = 4 << 20  # floats: 16 MiB, 4,096 pages

    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    torch.ones(size)
    before = faults()
    for _ in range(10):
        torch.ones(size)
    assert faults() - before < 2 * 4096  # 40,960 where each round gives its pages back


def test_elsewhere_it_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    with caplog.at_level(logging.WARNING):
        assert not heap.keep_freed_memory()
        assert not heap.keep_freed_memory()
    assert [record.message.split(":")[0] for record in caplog.records] == ["bank"]
    assert "no glibc here" in caplog.text
