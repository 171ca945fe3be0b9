"""Nothing that is read from a file or from another process is ever run: no pickle is loaded, no text evaluated."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
ROOMS = ("kernels", "distill", "adapters", "teachers", "students", "experiments")
MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle"}
"""Modules that build objects from bytes."""

CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "torch.jit.load",
    "yaml.load",
    "yaml.load_all",
}
CALLS |= {
    "yaml.unsafe_load",
    "yaml.full_load",
    "pd.read_pickle",
    "pandas.read_pickle",
    "os.system",
    "os.popen",
}
CALLS |= {f"dist.{name}" for name in ("broadcast_object_list", "all_gather_object", "gather_object")}
CALLS |= {f"dist.{name}" for name in ("scatter_object_list", "send_object_list", "recv_object_list")}

EXECUTES = {"distill/user_file.py", "experiments/benchmarks/peers/peer_fuxictr.py"}
"""Files that may execute another one: a user's architecture that the config names; a peer's file of an installed
package, in a benchmark."""


def files() -> list[Path]:
    return [path for room in ROOMS for path in sorted((PROJECT / room).rglob("*.py"))]


def offences(tree: ast.AST, executes: bool) -> Iterator[str]:
    """What a file does of all that."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in CALLS or (name.endswith(".exec_module") and not executes):
                yield name
            if any(
                word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in node.keywords
            ):
                yield f"{name} with allow_pickle"
            if any(word.arg == "shell" and ast.unparse(word.value) != "False" for word in node.keywords):
                yield f"{name} with a shell"


def test_no_file_of_the_project_evaluates_what_it_reads() -> None:
    found = {
        str(path.relative_to(PROJECT)): list(
            offences(ast.parse(path.read_text()), str(path.relative_to(PROJECT)) in EXECUTES)
        )
        for path in files()
    }
    assert {path: what for path, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "eval(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "dist.gather_object(rows)",
        "spec.loader.exec_module(module)",
    ],
)
def test_planted_offences_are_found(text: str) -> None:
    assert list(offences(ast.parse(text), executes=False))
