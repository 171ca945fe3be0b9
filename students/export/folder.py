"""An export on disk: one folder that needs torch and numpy alone, with a checksum of every file.

manifest.json         format, sha256 of every other file
signature.json        the program's arguments, features, tasks (`Signature`), how raw ids become rows
program.pt2           torch.export's program: its zip of JSON and raw numbers
compiled.pt2          AOTInductor's package of the same, for this kind of processor; absent without a C++ compiler
tables/*.npy          arrays of the tables
vocabulary/*.parquet  values of the features that have a vocabulary, in the order of their rows (`value`, `row`)
example.parquet       rows as they are scored
expected.parquet      the logits that the exported tables and program give them
MODEL_CARD.md         for people
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from distill.checkpoint import file_hash
from distill.errors import DataError, UserError
from distill.vocabulary import Vocabulary
from students.export import raw
from students.export.rows import as_tensors, inputs_of
from students.export.signature import Signature
from students.export.trace import Run, load_compiled, load_program

FORMAT = 2
MANIFEST, SIGNATURE, CARD = "manifest.json", "signature.json", "MODEL_CARD.md"
PROGRAM, COMPILED, TABLES = "program.pt2", "compiled.pt2", "tables"
EXAMPLE, EXPECTED = "example.parquet", "expected.parquet"
_TOGETHER = 4096


@dataclass(frozen=True)
class Export:
    """An export that is loaded.

    Attributes:
        folder: where it lies.
        signature: of the program.
        arrays: of the tables, mapped from their files.
        program: takes the arrays and the inputs, in the signature's order.
        backend: `compiled` or `program`, whichever runs.
        vocabularies: by feature, of those whose raw ids are not rows.
    """

    folder: Path
    signature: Signature
    arrays: tuple[Tensor, ...]
    program: Run
    backend: str
    vocabularies: Mapping[str, Vocabulary]

    @classmethod
    def load(cls, folder: str | Path, backend: str | None = None) -> Export:
        """Open an export whose files are all as they were written.

        Args:
            folder: what `distill export` wrote.
            backend: `program` or `compiled`; None for the compiled one where the folder has it.

        Raises:
            UserError: no export, one of another format, a file that is missing or was changed, no such backend.
        """
        folder = Path(folder)
        check(folder)
        signature = Signature.from_plain(json.loads((folder / SIGNATURE).read_text()))
        arrays = tuple(_array(folder, name) for name in signature.arrays)
        backend = backend or ("compiled" if (folder / COMPILED).is_file() else "program")
        if backend == "compiled" and not (folder / COMPILED).is_file():
            raise UserError(
                f"{folder}: backend: got 'compiled', allowed: program, since the folder has no {COMPILED}"
            )
        load = {"compiled": load_compiled, "program": load_program}[backend]
        vocabularies = raw.read(folder, signature)
        return cls(folder, signature, arrays, load(folder / f"{backend}.pt2"), backend, vocabularies)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Logits float32 [B, k] of inputs in the signature's order, whose ids are inside their tables."""
        with torch.no_grad():
            return self.program(*self.arrays, *inputs)

    def score(self, table: pa.Table) -> dict[str, np.ndarray]:
        """Logits of rows, each for itself.

        Args:
            table: as `students.export.rows` describes it, with raw ids where the signature says so.

        Returns:
            Task to float32 [rows].

        Raises:
            DataError: what the rows lack, or hold that they may not.
        """
        parts, rows = [], raw.with_rows(table, self.signature, self.vocabularies)
        for start in range(0, max(table.num_rows, 1), _TOGETHER):
            inputs = inputs_of(self.signature, rows.slice(start, _TOGETHER))
            parts.append(self(*as_tensors(inputs)).numpy())
        logits = np.concatenate(parts)
        return {task: logits[:, place] for place, task in enumerate(self.signature.tasks)}


def check(folder: Path) -> None:
    """Every file of an export is the one that was written; UserError names the first that is not."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        form, hashes = manifest["format"], dict(manifest["sha256"])
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no {MANIFEST}, allowed: a folder that `distill export` wrote") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / MANIFEST}: not readable ({error}). Export the student again.") from error
    if form != FORMAT:
        raise UserError(f"{folder}: format: got {form}, allowed: {FORMAT}. Export the student again.")
    for name, written in hashes.items():
        path = folder / name
        got = file_hash(path) if path.is_file() else "no file"
        if got != written:
            raise UserError(
                f"{path}: sha256: got {got}, allowed: {written}. The file was changed or cut off; copy the folder or "
                "export the student again."
            )
    known = {SIGNATURE, PROGRAM} - hashes.keys()
    more = {str(path.relative_to(folder)) for path in folder.rglob("*.pt2")} - hashes.keys()
    if known or more:
        raise UserError(
            f"{folder}: {', '.join(sorted(known | more))} not in {MANIFEST}. Export the student again."
        )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write an export into, which takes its place when the block ends.

    Args:
        folder: of the export; an older export there is replaced.

    Raises:
        UserError: something else stands there.
    """
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise UserError(
            f"{folder}: got a folder that is no export, allowed: a new folder, or an older export"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        (made / TABLES).mkdir()
        yield made
        _write_manifest(made)
        made.chmod(0o755)  # mkdtemp keeps others out
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def write_signature(folder: Path, signature: Signature, about: Mapping[str, Any]) -> None:
    """Write `signature.json`; `about` are further facts for whoever reads it."""
    ids = {one.name: raw.described(one) for one in signature.features}
    content = {**signature.to_plain(), "ids": ids, **about}
    (folder / SIGNATURE).write_text(json.dumps(content, indent=1) + "\n")


def write_arrays(folder: Path, arrays: Mapping[str, Tensor]) -> None:
    """Write the arrays of the tables, one .npy file each."""
    for name, tensor in arrays.items():
        np.save(folder / TABLES / f"{name}.npy", tensor.numpy(), allow_pickle=False)


def _write_manifest(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {str(path.relative_to(folder)): file_hash(path) for path in files}
    content = {"format": FORMAT, "torch": torch.__version__, "sha256": hashes}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n")


def _array(folder: Path, name: str) -> Tensor:
    path = folder / TABLES / f"{name}.npy"
    if not path.is_file():
        raise DataError(f"{path}: no such file. Export the student again.")
    # Private pages: torch wants memory that could be written, and nothing writes.
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
