"""Reading single parts out of a teacher's snapshot (`distill.checkpoint`); it is never written.

Shape letters: S rows of a table of the teacher, R rows of the student's, W width of the teacher's tables.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from adapters.vocabulary import Match
from distill.checkpoint import CHANNELS
from distill.errors import UserError, nearest
from distill.tensor_file import TensorFile, open_tensors

_TABLES = "tables."


@dataclass(frozen=True)
class SharedRows:
    """A teacher's table in the order of the student's ids.

    Attributes:
        weight: float32 [R, W]; where a row is not seen it is no value.
        moment: float32 [R], of the row-wise AdaGrad; likewise.
        seen: bool [R], True where the teacher has ever updated the row.
    """

    weight: Tensor
    moment: Tensor
    seen: Tensor


class TeacherFile:
    """An open snapshot.

    Args:
        tensors: the file.
    """

    def __init__(self, tensors: TensorFile):
        self.path = tensors.path
        self._tensors = tensors
        self._names = [name for name in tensors.keys() if not name.startswith(CHANNELS)]

    def rows(self, feature: str, size: int, match: Match | None = None) -> SharedRows:
        """A table of the teacher.

        Args:
            feature: whose.
            size: R.
            match: brings ids of other vocabularies together; None where both number them alike.

        Raises:
            UserError: the teacher has no such table, or one of another number of rows.
        """
        weight, moment = (self._tensor(feature, part) for part in ("weight", "momentum"))
        allowed = size if match is None else match.teacher_rows
        if len(weight) != allowed:
            values = f"one for each value of vocabularies.{feature}.teacher"
            other = "as the student has; give `vocabularies` for a teacher that numbers its ids differently"
            raise UserError(
                f"sharing.tables: '{feature}': got {len(weight)} rows in {self.path}, allowed: {allowed}, "
                f"{other if match is None else values}"
            )
        if match is None:
            return SharedRows(weight, moment, moment > 0)
        rows = match.rows.clamp_min(0)
        return SharedRows(weight[rows], moment[rows], (match.rows >= 0) & (moment[rows] > 0))

    def module(self, path: str, name: str) -> dict[str, Tensor]:
        """Parameters and buffers of a module of the teacher, by their names inside it.

        Args:
            path: the module's, such as `towers.layers.0`.
            name: the field that names it.

        Raises:
            UserError: no such module.
        """
        dense = [tensor for tensor in self._names if not tensor.startswith(_TABLES)]
        parents = {
            tensor.rsplit(".", count)[0] for tensor in dense for count in range(1, tensor.count(".") + 1)
        }
        check_module(path, parents, f"{name} in {self.path}")
        inside = [tensor for tensor in dense if tensor.startswith(f"{path}.")]
        return {tensor.removeprefix(f"{path}."): self._tensors.tensor(tensor) for tensor in inside}

    def _tensor(self, feature: str, part: str) -> Tensor:
        tables = {
            name.removeprefix(_TABLES).rpartition(".")[0] for name in self._names if name.startswith(_TABLES)
        }
        refuse_missing_table(feature, tables, str(self.path))
        return self._tensors.tensor(f"{_TABLES}{feature}.{part}")


@contextmanager
def open_teacher(path: Path) -> Iterator[TeacherFile]:
    """A snapshot, open for reading.

    Args:
        path: what `distill.checkpoint.save_model` wrote.

    Raises:
        UserError: no such file, or one that is damaged.
    """
    if not path.is_file():
        raise UserError(
            f"sharing: no snapshot {path}. Train the teacher first (`distill teacher` or `distill run`)."
        )
    with open_tensors(path) as tensors:
        yield TeacherFile(tensors)


def refuse_missing_table(feature: str, tables: Collection[str], where: str) -> None:
    """Refuse a feature whose table is not there.

    Args:
        feature: the one to be copied.
        tables: features of the teacher's tables.
        where: they are, for the message.

    Raises:
        UserError: tells those that are.
    """
    if feature not in tables:
        raise UserError(
            f"sharing.tables: got '{feature}', allowed: {', '.join(sorted(tables)) or 'nothing'}, the tables in "
            f"{where}. {nearest(feature, tables)}".rstrip()
        )


def check_module(path: str, known: Collection[str], name: str) -> None:
    """Refuse the path of a module that is not there.

    Args:
        path: such as `towers.layers.0`.
        known: paths of all modules.
        name: the field that names it.

    Raises:
        UserError: tells what lies below the part of the path that exists.
    """
    if path in known:
        return
    parent = path
    while parent and parent not in known:
        parent = parent.rpartition(".")[0]
    start = f"{parent}." if parent else ""
    below = sorted(other for other in known if other.startswith(start) and "." not in other[len(start) :])
    raise UserError(
        f"{name}: got '{path}', allowed: {', '.join(filter(None, below))}. {nearest(path, known)}".rstrip()
    )
