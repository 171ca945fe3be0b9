"""Triton kernels without a GPU: run by the interpreter on CPU tensors, and compiled for a GPU that is not there.

An op's launchers live in a module of their own, say `kernels.some_op.gpu`: plain functions that take tensors and
launch `@triton.jit` kernels. That module registers no operator (op.py does) and asks nothing of `torch.cuda`, so that
a second copy of it works on CPU tensors. Its test proves the numbers in the interpreter, on tiny shapes in float32 or
float16 (`tl.dot` of bfloat16 is silently wrong there), and that the same kernels compile and keep to the registers:

    from kernels.some_op import gpu
    from tests.kernels.triton_tools import interpreted, lowered

    in_interpreter = interpreted("kernels.some_op.gpu")

    def test_forward_equals_reference() -> None:
        out = in_interpreter.forward(x, y)                          # CPU tensors

    @pytest.mark.parametrize("capability", [80, 90])
    def test_forward_compiles_without_spilling(capability: int) -> None:
        signature = {"x_ptr": "*bf16:16", "y_ptr": "*bf16:16", "rows": "i32"}      # every argument that is no constexpr
        code = lowered(gpu.forward_kernel, signature, {"BLOCK": 64}, capability, num_warps=4)
        assert code.spilled == 0 and code.shared <= SHARED_MEMORY[capability]
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import triton
import triton.experimental.gluon  # takes copies of Triton's functions, so before any are exchanged
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

# Bytes of shared memory that one block of threads may have, by compute capability.
SHARED_MEMORY = {80: 166_912, 90: 232_448}


@dataclass(frozen=True)
class Lowered:
    """What a kernel became for one kind of GPU.

    Attributes:
        registers: 32-bit registers of a thread, at most 255.
        shared: bytes of shared memory of a block of threads.
        spilled: bytes of a thread that did not fit into registers and went to memory.
        ptx: the intermediate assembly.
    """

    registers: int
    shared: int
    spilled: int
    ptx: str


def interpreted(module_name: str) -> ModuleType:
    """A second copy of a module with Triton kernels, whose kernels the interpreter runs on CPU tensors.

    Every module of this project with Triton functions that it imports is copied with it. The normal module, imported
    before or after, stays what it is; Triton's own functions (`tl.sum`, ...) are exchanged only while a kernel runs.

    Args:
        module_name: the full name, such as `kernels.jagged_attention.gpu`.
    """
    room = module_name.partition(".")[0]
    before = {name: module for name, module in sys.modules.items() if _holds(module, room, JITFunction)}
    before.setdefault(module_name, sys.modules.get(module_name))  # type: ignore[arg-type]
    for name in before:
        sys.modules.pop(name, None)
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = True
        copy = importlib.import_module(module_name)
    copies = [n for n, module in sys.modules.items() if _holds(module, room, InterpretedFunction)]
    for name in {*copies, module_name}:
        _run_with_interpreted_library(sys.modules.pop(name))
    for name, module in before.items():
        if module is not None:
            sys.modules[name] = module
    _point_packages_at_what_is_imported({*copies, *before})
    return copy


def lowered(
    kernel: JITFunction,
    signature: dict[str, str],
    constexprs: dict[str, Any],
    target: int | GPUTarget,
    **options: int,
) -> Lowered:
    """Compiles a kernel for a GPU, present or not.

    Args:
        kernel: a `@triton.jit` function of a normally imported module.
        signature: type of every argument that is no constexpr (`*fp32`, `*i64`, `fp32`, `i32`), in any order; with
            `:16` behind it a pointer or number that sixteen divides, as those of whole tensors are.
        constexprs: value of every constexpr argument.
        target: compute capability, 80 (A100) or 90 (H100, H200), or a target of Triton's.
        options: as at the launch: num_warps, num_stages.
    """
    assert isinstance(kernel, JITFunction), f"kernel: got {type(kernel)}; import its module normally"
    missing = set(kernel.arg_names) ^ {*signature, *constexprs}
    assert not missing, (
        f"neither or both of signature and constexprs name, or the kernel lacks: {sorted(missing)}"
    )
    types = {
        name: signature[name].partition(":")[0] if name in signature else "constexpr"
        for name in kernel.arg_names
    }
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if signature.get(name, "").endswith(":16")
    }
    target = target if isinstance(target, GPUTarget) else GPUTarget("cuda", target, 32)
    compiled = triton.compile(ASTSource(kernel, types, constexprs, aligned), target=target, options=options)
    usage = _resource_usage(compiled.asm["cubin"])
    return Lowered(
        usage["REG"], compiled.metadata.shared, usage["STACK"] + usage["LOCAL"], compiled.asm["ptx"]
    )


def _resource_usage(cubin: bytes) -> dict[str, int]:
    """Of the one kernel in a cubin: REG, STACK, SHARED, LOCAL and more."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(cubin)
        tool = triton.knobs.nvidia.cuobjdump.path
        text = subprocess.run([tool, "-res-usage", file], check=True, capture_output=True, text=True).stdout
    line = next(line for line in text.splitlines() if line.lstrip().startswith("REG:"))
    return {name: int(number) for name, number in re.findall(r"(\w+):(\d+)", line)}


def _holds(module: ModuleType | None, room: str, kind: type) -> bool:
    """Whether a module of this project has functions of a kind."""
    name = getattr(module, "__name__", "")
    return f"{name}.".startswith(f"{room}.") and any(isinstance(x, kind) for x in vars(module).values())


def _point_packages_at_what_is_imported(names: set[str]) -> None:
    """`import package.module` also sets an attribute of the package: that of the copy must not stay."""
    for name in names:
        package, _, attribute = name.rpartition(".")
        if package not in sys.modules:
            continue
        if name in sys.modules:
            setattr(sys.modules[package], attribute, sys.modules[name])
        else:
            vars(sys.modules[package]).pop(attribute, None)


def _run_with_interpreted_library(module: ModuleType) -> None:
    for value in vars(module).values():
        if isinstance(value, InterpretedFunction):
            _guard(value)


def _guard(kernel: InterpretedFunction) -> None:
    plain = InterpretedFunction.run

    def run(*args: Any, **kwargs: Any) -> Any:
        with _interpreted_library():
            return plain(kernel, *args, **kwargs)

    kernel.run = run


@contextmanager
def _interpreted_library() -> Iterator[None]:
    """Triton's functions that are kernels themselves, such as `tl.sum`, as the interpreter can call them.

    They were decorated when triton was imported, which is before any test could ask for the interpreter. The
    interpreter leaves its own changes to Triton's language behind as well; all are taken back here.
    """
    modules = [module for name, module in sys.modules.items() if f"{name}.".startswith("triton.language.")]
    classes = [x for x in vars(tl.core).values() if isinstance(x, type) and x.__module__ == tl.core.__name__]
    before: list[tuple[Any, dict[str, Any]]] = [(place, dict(vars(place))) for place in [*modules, *classes]]
    try:
        for place, names in before:
            for name, function in names.items():
                if isinstance(function, JITFunction):
                    setattr(place, name, _in_interpreter(place, function))
        yield
    finally:
        for place, names in before:
            _take_back(place, names)


def _take_back(place: Any, before: dict[str, Any]) -> None:
    for name, value in dict(vars(place)).items():
        if name in before and value is not before[name]:
            setattr(place, name, before[name])
        elif name not in before and isinstance(
            place, type
        ):  # rewritten functions of a module need its new names
            delattr(place, name)


_library: dict[Any, InterpretedFunction] = {}


def _in_interpreter(place: Any, function: JITFunction) -> Any:
    # One copy of each: the interpreter recognises sums and maxima by what they combine with.
    copy = _library.setdefault(function.fn, InterpretedFunction(function.fn))
    return copy if isinstance(place, ModuleType) else lambda *args, **kwargs: copy(*args, **kwargs)
