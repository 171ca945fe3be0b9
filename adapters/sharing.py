"""Parameter sharing: tables and modules of the teacher copied into the student.

GEM's vertical models "selectively incorporate components" of the foundation model (Meta engineering blog,
2025-11-10); no recipe was published, so all of it is ours. Copied tables are further fields of the student
(`adapters.shared_tables`) or the initial rows of its own tables; copied modules take the place of its own.

Shape letters: R ids of a feature, D width of the student's embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapters.shared_tables import SharedTables
from adapters.sharing_config import BESIDE, SharingConfig
from adapters.table_projections import (
    EqualWidths,
    LearnedProjection,
    SVDProjection,
    TableProjection,
    svd_basis,
)
from adapters.teacher_file import (
    SharedRows,
    TeacherFile,
    check_module,
    open_teacher,
    refuse_missing_table,
)
from adapters.vocabulary import read_match
from distill.batch import Batch
from distill.errors import UserError, nearest
from distill.protocols import Architecture, Channel, Output
from distill.schema import FeatureSchema
from distill.seeding import seeded
from kernels.embedding import EmbeddingTables

NAME = "sharing"


class Sharing(Channel):
    """Copies at the beginning of a day; its loss is 0.

    Args:
        config: what is copied, and what becomes of it.
        schema: the data set's schema.
        seed: of the projection's initial values.

    Raises:
        UserError: a feature that the schema lacks, or vocabularies that cannot be matched.
    """

    touches_serving_head = False

    def __init__(self, config: SharingConfig, schema: FeatureSchema, seed: int):
        super().__init__()
        self.config, self.seed = config, seed
        self.needs = frozenset() if config.snapshot is not None else frozenset({"snapshot"})
        self.in_banks = config.copies in ("refreshed", "frozen") and not config.modules
        named = config.copies != "none"
        self.sizes = {name: schema.sparse[name].size for name in _features(config, schema)} if named else {}
        self.fields = tuple(f"{NAME}.{name}" for name in self.sizes) if config.copies in BESIDE else ()
        self.matches = {
            name: read_match(files.teacher, files.student, schema, name)
            for name, files in config.vocabularies.items()
        }
        # In a list, because a module kept as an attribute would hand the student's parameters to the optimiser again.
        self._student: list[Architecture] = []
        self._taken: Path | None = None

    def attach(self, student: Architecture) -> None:
        """Give the student room for the copies; they are made later.

        Raises:
            UserError: the student reads no such feature, has no such module, or another width than `projection: none`
                allows.
        """
        self._student = [student]
        for name in self.sizes:
            if name not in student.features:
                raise UserError(
                    f"sharing.tables: got '{name}', allowed: {', '.join(student.features)}, which the student reads. "
                    "Name the tables that are shared."
                )
        for path in self.config.modules:
            check_module(path, [name for name, _ in student.named_modules()], "sharing.modules")
            if any(isinstance(module, EmbeddingTables) for module in student.get_submodule(path).modules()):
                raise UserError(
                    f"sharing.modules: got '{path}', which holds embedding tables, allowed: modules without any. "
                    "Name tables in sharing.tables."
                )
        if self.fields:
            student.inputs[NAME] = self._shared_tables(student.dim)

    def check_teacher(self, teacher: Architecture, name: str) -> None:
        """Refuse a teacher whose tables or modules cannot be copied.

        Raises:
            UserError: it has no such table or module, or one of another width or shape.
        """
        (student,) = self._student
        for feature in self.sizes:
            refuse_missing_table(feature, teacher.tables.features, f"the teacher '{name}'")
            self._check_width(student, teacher.tables.dim, f"'{feature}' in the teacher '{name}'")
        modules = {
            path: module for path, module in teacher.named_modules() if path.partition(".")[0] != "tables"
        }
        for path, source in self.config.modules.items():
            check_module(source, modules, f"sharing.modules.{path} in the teacher '{name}'")
            _refuse_other_shapes(student.get_submodule(path), modules[source].state_dict(), path, source)

    def begin_day(self, day: int, snapshot: Path | None) -> None:
        """Copy, unless it has been done or there is nothing to copy yet.

        Raises:
            UserError: no such file, or what it holds does not fit.
        """
        config = self.config
        path = snapshot if config.snapshot is None else Path(config.snapshot)
        if path is None or day < config.first_day or path == self._taken:
            return
        first = self._taken is None
        if first or config.copies == "refreshed":
            with open_teacher(path) as teacher:
                self._copy_tables(teacher)
                if first:
                    self._copy_modules(teacher)
            self._taken = path

    def training_state(self) -> dict[str, Any]:
        """The snapshot that was copied last."""
        return {"taken": None if self._taken is None else str(self._taken)}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        self._taken = None if state["taken"] is None else Path(state["taken"])
        if self._taken is not None:
            self._freeze()

    def loss(self, output: Output, batch: Batch, student: Architecture) -> tuple[Tensor, dict[str, Tensor]]:
        """Nothing to learn from beside the labels.

        Returns:
            0; and with further fields `unseen`, the share of the batch's ids that the teacher never saw.
        """
        logs = {}
        if self.fields:
            shared = student.inputs[NAME]
            assert isinstance(shared, SharedTables)
            ids = sum(batch.sparse[feature].values().numel() for feature in shared.features)
            share = shared.count_unseen(batch.sparse).sum() / max(ids, 1)
            logs["unseen"] = torch.where(shared.filled, share, 1.0)
        return output.logits.new_zeros(()), logs

    def _shared_tables(self, dim: int) -> SharedTables:
        config = self.config
        if config.projection == "none" and config.dim != dim:
            raise UserError(
                f"sharing.projection: got 'none' for teacher's tables of width {config.dim} and a student of width "
                f"{dim}, allowed: learned or svd, or equal widths"
            )
        with seeded(self.seed, "channel.sharing"):
            return SharedTables(
                self.sizes,
                config.dim,
                dim,
                _projection(config.projection, len(self.sizes), config.dim, dim),
                config.table_learning_rate if config.copies == "trained" else 0.0,
                config.unseen == "mean",
                config.moments,
                self.seed,
            )

    def _copy_tables(self, teacher: TeacherFile) -> None:
        (student,) = self._student
        rows = {name: teacher.rows(name, size, self.matches.get(name)) for name, size in self.sizes.items()}
        for name, table in rows.items():
            self._check_width(student, table.weight.size(1), f"'{name}' in {teacher.path}")
        if self.config.copies == "initial":
            self._start_rows(student, rows)
        elif rows:
            shared = student.inputs[NAME]
            assert isinstance(shared, SharedTables)
            shared.take(rows)

    def _check_width(self, student: Architecture, width: int, table: str) -> None:
        """Refuse a table of the teacher by its width."""
        config = self.config
        if config.copies in BESIDE and width != config.dim:
            raise UserError(f"sharing.dim: got {config.dim}, allowed: {width}, the width of {table}")
        if config.copies == "initial" and config.projection == "none" and width != _own_width(student):
            raise UserError(
                f"sharing.projection: got 'none' for {table}, of width {width}, and {_own_width(student)} in the "
                "student, allowed: svd, or equal widths"
            )

    def _start_rows(self, student: Architecture, rows: Mapping[str, SharedRows]) -> None:
        """Into the student's own tables; rows that the teacher never saw, and further columns, stay as they are."""
        dim = _own_width(student)
        state = student.tables.export()
        for name, table in rows.items():
            weight, seen = table.weight, table.seen
            if self.config.projection == "svd":
                weight = weight @ svd_basis(weight[seen], dim)
            state[f"{name}.weight"][seen, :dim] = weight[seen]
            state[f"{name}.momentum"][seen] = table.moment[seen] * self.config.moments
        student.tables.load(state)

    def _copy_modules(self, teacher: TeacherFile) -> None:
        (student,) = self._student
        for path, source in self.config.modules.items():
            module = student.get_submodule(path)
            found = teacher.module(source, f"sharing.modules.{path}")
            _refuse_other_shapes(module, found, path, source)
            module.load_state_dict(found)
        self._freeze()

    def _freeze(self) -> None:
        (student,) = self._student
        for path in self.config.modules if self.config.freeze_modules else ():
            student.get_submodule(path).requires_grad_(False)


def _own_width(student: Architecture) -> int:
    """D; of a user's own architecture, which may not say it, that of its tables."""
    return student.dim if hasattr(student, "dim") else student.tables.dim


def _features(config: SharingConfig, schema: FeatureSchema) -> tuple[str, ...]:
    """The shared features; UserError for a name that the schema lacks, or vocabularies of a feature not shared."""
    for name in config.tables:
        if name not in schema.sparse:
            raise UserError(
                f"sharing.tables: got '{name}', allowed: {', '.join(schema.sparse)}. "
                f"{nearest(name, schema.sparse)}".rstrip()
            )
    features = tuple(config.tables) or _ids(schema)
    for name in config.vocabularies:
        if name not in features:
            raise UserError(
                f"sharing.vocabularies: got '{name}', allowed: {', '.join(features)}. "
                f"{nearest(name, features)}".rstrip()
            )
    return features


def _ids(schema: FeatureSchema) -> tuple[str, ...]:
    """Who and what an example is about: the largest table of the users, and that of the items.

    Tables of a few rows are long vectors that meet in every example, and the student has learnt them after a day: by
    thirty of them a student of KuaiRand lost more than it gained (experiments/RESULTS.md).
    """
    users = [feature for feature in schema.sparse.values() if feature.group == "user"]
    largest = [max(users, key=lambda feature: feature.size).name] if users else []
    return tuple(dict.fromkeys([*largest, schema.item_feature]))


def _projection(name: str, tables: int, width: int, dim: int) -> TableProjection:
    if name == "none":
        return EqualWidths()
    return {"learned": LearnedProjection, "svd": SVDProjection}[name](tables, width, dim)


def _refuse_other_shapes(module: nn.Module, found: Mapping[str, Tensor], path: str, source: str) -> None:
    own = module.state_dict()
    for name in sorted(own.keys() | found.keys()):
        got = list(found[name].shape) if name in found else "nothing"
        allowed = list(own[name].shape) if name in own else "nothing"
        if got != allowed:
            raise UserError(
                f"sharing.modules.{path}: got {got} for {name} in the teacher's '{source}', allowed: {allowed}, as in "
                "the student"
            )


def build(config: SharingConfig, schema: FeatureSchema, seed: int) -> Sharing:
    """Builder for the registry."""
    return Sharing(config, schema, seed)
