"""The tools that stand in for a GPU, on kernels whose results are known."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import triton
from triton.runtime.jit import JITFunction

from tests.kernels.triton_tools import SHARED_MEMORY, interpreted, lowered

HELPER = """
import triton
import triton.language as tl

@triton.jit
def twice(x):
    return tl.zeros_like(x) + 2 * x
"""
KERNELS = """
from __future__ import annotations
import torch
import triton
import triton.language as tl
from sample_kernels.helper import twice

@triton.jit
def row_sums_kernel(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    values = tl.load(x + row * columns + at, mask=at < columns, other=0.0)
    tl.store(out + row, tl.sum(twice(values)) + values.max(0) - tl.max(values, 0) + tl.cdiv(columns, BLOCK) - 1)

@triton.jit
def square_kernel(x, out, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    a = tl.load(x + at)
    tl.store(out + at, tl.dot(a, a))

def twice_row_sums(x):
    out = torch.empty(len(x))
    row_sums_kernel[(len(x),)](x, out, x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]), num_warps=1)
    return out
"""
NAME = "sample_kernels.gpu"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with kernels in two files; forgotten after the test."""
    folder = tmp_path / "sample_kernels"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "helper.py").write_text(HELPER)
    (folder / "gpu.py").write_text(KERNELS)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("sample_kernels", NAME, "sample_kernels.helper"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return NAME


def normal() -> ModuleType:
    return __import__(NAME, fromlist=["gpu"])


def test_a_copy_runs_on_the_cpu(package: str) -> None:
    x = torch.arange(15.0).view(3, 5)
    torch.testing.assert_close(interpreted(package).twice_row_sums(x), 2 * x.sum(1))


@pytest.mark.parametrize("imported_before", [False, True])
def test_the_normal_module_and_triton_stay_what_they_are(package: str, imported_before: bool) -> None:
    before = normal() if imported_before else None
    interpreted(package).twice_row_sums(torch.ones(1, 4))
    assert before is None or normal() is before
    module = normal()
    assert sys.modules["sample_kernels"].gpu is module
    functions = [module.row_sums_kernel, module.twice, triton.language.sum, triton.language.tensor.max]
    assert all(isinstance(f, JITFunction) for f in functions)
    assert "TRITON_INTERPRET" not in os.environ and not triton.knobs.runtime.interpret


@pytest.mark.parametrize("capability", [80, 90])
def test_a_kernel_is_compiled_after_the_interpreter_has_run_it(package: str, capability: int) -> None:
    interpreted(package).twice_row_sums(torch.ones(1, 4))
    signature = {"x": "*fp32:16", "out": "*fp32:16", "columns": "i32"}
    code = lowered(normal().row_sums_kernel, signature, {"BLOCK": 256}, capability, num_warps=1)
    assert code.spilled == 0 and 8 <= code.registers <= 64
    assert f".target sm_{capability}" in code.ptx


def test_registers_shared_memory_and_spilling_are_seen(package: str) -> None:
    signature = {"x": "*fp16:16", "out": "*fp32:16"}
    roomy = lowered(normal().square_kernel, signature, {"SIZE": 64}, 80, num_warps=4)
    assert roomy.spilled == 0 and 32 < roomy.registers < 255
    assert 64 * 64 * 2 <= roomy.shared <= SHARED_MEMORY[80]
    # A thread keeps 32 sums of the product.
    tight = lowered(normal().square_kernel, signature, {"SIZE": 64}, 80, num_warps=4, maxnreg=32)
    assert tight.spilled > 0 and tight.registers == 32


def test_pointers_are_as_aligned_as_the_signature_says(package: str) -> None:
    loose = lowered(normal().square_kernel, {"x": "*fp16", "out": "*fp32"}, {"SIZE": 32}, 80, num_warps=1)
    aligned = lowered(
        normal().square_kernel, {"x": "*fp16:16", "out": "*fp32:16"}, {"SIZE": 32}, 80, num_warps=1
    )
    assert "ld.global.v4" in aligned.ptx and "ld.global.v4" not in loose.ptx


def test_arguments_that_do_not_fit_are_named(package: str) -> None:
    with pytest.raises(AssertionError, match=r"lacks: \['columns'\]"):
        lowered(normal().row_sums_kernel, {"x": "*fp32", "out": "*fp32"}, {"BLOCK": 4}, 90)
