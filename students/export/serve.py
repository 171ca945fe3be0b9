"""Which part of a trained student is served, and what it must be asked with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from distill.errors import UserError
from distill.past import ServedRepresentations
from distill.protocols import Architecture
from distill.schema import SparseFeature
from distill.vocabulary import Vocabulary
from kernels.embedding import EmbeddingTables
from students.base import Student
from students.export.program import ServedStudent
from students.export.signature import (
    ARRAYS,
    PAST_ITEM,
    PAST_USER,
    TEACHER,
    Precision,
    ServedFeature,
    ServedTable,
    ServedVectors,
    Signature,
    all_inputs,
)
from students.export.tables import encode

TABLES = "tables"


class GivesRows(Protocol):
    """A channel's module whose fields are sums of an example's rows, and so can be served as a table."""

    def served_rows(self) -> dict[str, Tensor]:
        """Rows by feature, float32 [ids, D]: what one id adds to its feature's field."""


class ReadsTeacher(Protocol):
    """A channel's module whose fields are made of the teacher's representations."""

    def served_representations(self) -> ServedRepresentations:
        """Which of them."""


@dataclass(frozen=True)
class Served:
    """A student ready to be traced.

    Attributes:
        module: from arguments to logits.
        signature: what the arguments are.
        arrays: of the tables, by `signature.arrays`.
    """

    module: ServedStudent
    signature: Signature
    arrays: dict[str, Tensor]


def serve(
    student: Architecture, precision: Precision, vocabularies: Mapping[str, Vocabulary] | None = None
) -> Served:
    """Separate what is served of a student from what trains it; the student stays as it is.

    Args:
        student: trained.
        precision: of the tables.
        vocabularies: of the data set, by feature, where requests hold raw ids; None where they hold rows.

    Raises:
        UserError: the student reads what only the training pipeline can give it.
    """
    checked = _check(student)
    modules = _modules(checked)
    rows = {name: _rows(module) for name, module in modules.items()}
    tables = tuple(_table(name, of_feature) for name, of_feature in rows.items())
    signature = _signature(checked, precision, tables, vocabularies or {})
    arrays = {}
    for table, of_feature in zip(tables, rows.values(), strict=True):
        encoded = encode(torch.cat(list(of_feature.values())), precision)
        for array, tensor in zip(ARRAYS[precision], encoded, strict=True):
            arrays[f"{table.name}.{array}"] = tensor
    return Served(ServedStudent(student, signature, modules), signature, arrays)


def _check(student: Architecture) -> Student:
    if not isinstance(student, Student):
        raise UserError(
            f"export: got the architecture {type(student).__name__}, allowed: students.base.Student and what derives "
            "from it (deepfm, dlrm, dcn_v2, din, or a file of your own)"
        )
    if student.content:
        raise UserError(
            f"export: the student reads content vectors ({', '.join(student.content)}), allowed: students that read "
            "ids, dense features and history. Train it without `content`."
        )
    for name, module in student.inputs.items():
        if not hasattr(module, "served_rows") and not hasattr(module, "served_representations"):
            raise UserError(
                f"export: channel '{name}' makes fields of what an export does not know, allowed: modules with "
                "`served_rows` or `served_representations`, as sharing and repr have. Export the student trained with "
                "another channel set (--channel)."
            )
    return student


def _modules(student: Student) -> dict[str, nn.Module]:
    given = {
        f"inputs.{name}": module for name, module in student.inputs.items() if hasattr(module, "served_rows")
    }
    return {TABLES: student.tables, **given}


def _vectors(student: Student) -> tuple[ServedVectors, ...]:
    """What channels read of the teacher; where two read the same, as much as either wants."""
    wanted: dict[str, ServedVectors] = {}
    for module in student.inputs.values():
        if not hasattr(module, "served_representations"):
            continue
        read = cast(ReadsTeacher, module).served_representations()
        lengths = {PAST_USER: read.user_events, PAST_ITEM: int(read.item), TEACHER: int(read.current)}
        for name, length in lengths.items():
            if length:
                before = wanted.get(name, ServedVectors(name, 0, 0))
                wanted[name] = ServedVectors(name, max(before.width, read.width), max(before.length, length))
    return tuple(wanted.values())


def _rows(module: nn.Module) -> dict[str, Tensor]:
    """Rows by feature, in the order in which the student reads them."""
    if not isinstance(module, EmbeddingTables):
        return cast(GivesRows, module).served_rows()
    state = module.export()
    return {feature: state[f"{feature}.weight"] for feature in module.features}


def _table(name: str, rows: dict[str, Tensor]) -> ServedTable:
    first_rows, end = {}, 0
    for feature, of_feature in rows.items():
        first_rows[feature] = end
        end += len(of_feature)
    return ServedTable(name, next(iter(rows.values())).size(1), first_rows, end)


def _signature(
    student: Student,
    precision: Precision,
    tables: tuple[ServedTable, ...],
    vocabularies: Mapping[str, Vocabulary],
) -> Signature:
    schema = student.schema
    features = tuple(_feature(schema.sparse[name], vocabularies.get(name)) for name in student.features)
    vectors = _vectors(student)
    one_by_one = student.history_pooling is None or len(student.event_inputs) > 0
    inputs = all_inputs(
        features,
        student.dense_features,
        schema.item_feature,
        len(schema.tasks),
        history=student.history_length > 0,
        one_by_one=one_by_one,
        vectors=vectors,
    )
    return Signature(
        tasks=student.tasks,
        features=features,
        dense=student.dense_features,
        item_feature=schema.item_feature,
        domains=schema.domains,
        history_tasks=schema.task_names,
        history_length=student.history_length,
        vectors=vectors,
        precision=precision,
        tables=tables,
        inputs=inputs,
    )


def _feature(feature: SparseFeature, vocabulary: Vocabulary | None) -> ServedFeature:
    served = ServedFeature(feature.name, feature.size, feature.multi, of_user=feature.group == "user")
    if vocabulary is None:
        return served
    return replace(served, ids=feature.ids, unknown=feature.unknown, raw=vocabulary.kind)
