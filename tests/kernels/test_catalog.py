"""The list of operators is complete and says what this machine does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import kernels
from kernels import catalog

FOLDERS = sorted(path.parent.name for path in Path(kernels.__file__).parent.glob("*/__init__.py"))


def test_every_folder_of_kernels_is_listed_once() -> None:
    assert [kernel.name for kernel in catalog.kernels()] == FOLDERS


def test_every_entry_says_what_path_and_why_in_one_line() -> None:
    for kernel in catalog.kernels():
        assert kernel.path in {"fbgemm-cpu", "cpu-fast", "triton"}
        assert kernel.summary and kernel.why and "\n" not in kernel.summary + kernel.why


def test_the_cpu_build_of_fbgemm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "version", lambda name: {"fbgemm-gpu-cpu": "1.2.3"}[name])
    assert "fbgemm-gpu-cpu 1.2.3 is installed" in catalog.kernels()[0].why


def test_what_is_not_installed_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "find_spec", lambda name: None)
    assert [kernel.path for kernel in catalog.kernels()] == ["unavailable"] * len(FOLDERS)


def test_with_a_gpu_the_operators_that_have_a_triton_path_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "DRIVER", tmp_path)
    assert not [kernel.name for kernel in catalog.kernels() if kernel.path == "triton"]
    (tmp_path / "0000:01:00.0").mkdir()
    took = [kernel.name for kernel in catalog.kernels() if kernel.path == "triton"]
    assert took == [
        folder for folder in FOLDERS if (Path(kernels.__file__).parent / folder / "gpu.py").is_file()
    ]
    monkeypatch.setattr(catalog, "find_spec", lambda name: None if name == "triton" else object())
    assert not [kernel.name for kernel in catalog.kernels() if kernel.path == "triton"]


def test_listing_imports_neither_torch_nor_torchrec() -> None:
    code = "import sys, kernels.catalog as c; c.kernels(); print({'torch', 'torchrec'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
