"""From a served student to a program that needs torch alone: traced by torch.export, compiled by AOTInductor."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from distill.errors import UserError
from students.export.once import share_users
from students.export.program import ServedStudent
from students.export.signature import Signature

Run = Callable[..., Tensor]
COMPILERS = ("g++", "clang++")
_COMPILED: dict[str, Any] = {
    # Columns of weights are cut when the package is loaded, not at every request.
    "aot_inductor.use_runtime_constant_folding": True,
    # A row of a table is looked up once and kept, whatever reads it.
    "realize_reads_threshold": 2,
}
_LEAST = {"B": 1, "U": 1}  # any other size may be 0


def trace(served: ServedStudent, arguments: Sequence[Tensor], once: bool = True) -> ExportedProgram:
    """The program of a student, for any number of candidates, users and events.

    Args:
        served: the student.
        arguments: of a call with at least two candidates, two users and two events.
        once: compute what it says of a user once for each user (`students.export.once`); else every sum keeps the order
            of the trained student.

    Raises:
        UserError: the student's forward pass cannot be traced, or uses operators that torch alone does not have.
    """
    shapes = dynamic_shapes(served.signature)
    try:
        with torch.no_grad():
            program = torch.export.export(served, tuple(arguments), dynamic_shapes=(shapes,), strict=True)
    except Exception as error:  # torch.export has no class of its own for a model that it cannot trace
        raise UserError(
            f"export: the forward pass of {type(served.student).__name__} cannot be traced by torch.export "
            f"({type(error).__name__}: {str(error).splitlines()[0]}), allowed: tensor operations whose sizes do not "
            "depend on values (`--debug` shows where). A raw history must be as long as that of `rawid`."
        ) from error
    refuse_foreign(program)
    if not once:
        return program
    inputs = program.graph_signature.user_inputs[len(served.signature.arrays) :]
    return share_users(program, str(inputs[served.signature.input_names.index("user")]))


def refuse_foreign(program: ExportedProgram) -> None:
    """Refuse operators that are registered by this project or a library; UserError names them."""
    targets = {node.target for node in program.graph.nodes if node.op == "call_function"}
    operators = {target for target in targets if isinstance(target, torch._ops.OpOverload)}
    foreign = sorted(str(target) for target in operators if target.namespace not in ("aten", "prim"))
    if foreign:
        raise UserError(
            f"export: the student computes with {', '.join(foreign)}, allowed: operators that torch alone has (aten)"
        )


def dynamic_shapes(signature: Signature) -> tuple[dict[int, Any], ...]:
    """Which sizes of the arguments may vary, in torch.export's form."""
    letters: dict[str, Any] = {}

    def size(text: str) -> Any:
        letter, _, more = text.partition("+")
        dimension = letters.setdefault(letter, Dim(letter, min=_LEAST.get(letter, 0)))
        return dimension + int(more) if more else dimension

    fixed: list[dict[int, Any]] = [{} for _ in signature.arrays]
    return (
        *fixed,
        *({k: size(s) for k, s in enumerate(one.shape) if isinstance(s, str)} for one in signature.inputs),
    )


def save_program(program: ExportedProgram, path: Path) -> None:
    """Write the program without the arguments it was traced with, which torch would pickle, and without the names of
    this machine's files."""
    program.example_inputs = None
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, path)


def load_program(path: Path) -> Run:
    """A program as a function of its arguments.

    torch notes as a guard that a size was not 1 when it traced; no operation here depends on it, and requests of one
    user are the rule, so that guards are left out.
    """
    return torch.export.load(path).module(check_guards=False)


def compiler() -> str | None:
    """The C++ compiler that AOTInductor would use, or None."""
    return next((found for name in COMPILERS if (found := shutil.which(name))), None)


def compile_program(program: ExportedProgram, path: Path) -> None:
    """Write an AOTInductor package: machine code for this kind of processor. Half a minute.

    Args:
        program: with the arguments it was traced with, so before `save_program`.
        path: a `.pt2` file.
    """
    torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=_COMPILED)


def load_compiled(path: Path) -> Run:
    """An AOTInductor package as a function of its arguments."""
    return torch._inductor.aoti_load_package(str(path))
