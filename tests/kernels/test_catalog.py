"""The list of operators is complete and says what this machine does."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import kernels
from kernels import catalog

FOLDERS = sorted(path.parent.name for path in Path(kernels.__file__).parent.glob("*/__init__.py"))


def test_every_folder_of_kernels_is_listed_once() -> None:
    assert [kernel.name for kernel in catalog.kernels()] == FOLDERS


def test_every_entry_says_what_path_and_why_in_one_line() -> None:
    for kernel in catalog.kernels():
        assert kernel.path in {"fbgemm-cpu", "fbgemm-cuda", "cpu-fast", "triton"}
        assert kernel.summary and kernel.why and "\n" not in kernel.summary + kernel.why


def test_the_cpu_build_of_fbgemm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "version", lambda name: {"fbgemm-gpu-cpu": "1.2.3"}[name])
    assert "fbgemm-gpu-cpu 1.2.3 is installed" in catalog.kernels()[0].why


@pytest.mark.parametrize(
    ("build", "gpu", "triton", "path", "why"),
    [
        ("fbgemm-gpu-cpu", False, True, "fbgemm-cpu", "Triton kernels would stand in for device='cuda'"),
        ("fbgemm-gpu-cpu", True, True, "triton", "Triton kernels stand in for device='cuda' in one process"),
        ("fbgemm-gpu-cpu", True, False, "fbgemm-cpu", "triton is not installed, device='cuda' is refused"),
        ("fbgemm-gpu", True, True, "fbgemm-cuda", "for device='cuda'; tables on the CPU: fbgemm"),
        ("fbgemm-gpu", False, True, "fbgemm-cpu", "no GPU here, where it would serve device='cuda'"),
    ],
)
def test_the_path_of_tables_follows_from_fbgemms_build_the_gpu_and_triton(
    build: str, gpu: bool, triton: bool, path: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name != build:
            raise PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(catalog, "version", version)
    monkeypatch.setattr(catalog, "_has_gpu", lambda: gpu)
    monkeypatch.setattr(
        catalog, "find_spec", lambda name: None if name == "triton" and not triton else object()
    )
    tables = catalog.kernels()[0]
    assert (tables.name, tables.path) == ("embedding", path)
    assert why in tables.why and f"{build} 1.2.3 is installed" in tables.why


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
