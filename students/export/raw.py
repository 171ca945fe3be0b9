"""Raw ids of an export: what a request holds becomes rows of the tables, and the example's rows raw ids again.

`distill.vocabulary` says how. An export carries the vocabularies of the features that its program reads; a hash needs
what the signature says of the feature and nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from distill.schema import SparseFeature
from distill.vocabulary import KINDS, VOCABULARY, Vocabulary, load, save_all
from students.export.rows import ITEMS
from students.export.signature import ServedFeature, Signature


def write(folder: Path, signature: Signature, vocabularies: Mapping[str, Vocabulary]) -> None:
    """Write the vocabularies of the program's features; none where it has none."""
    wanted = {one.name: vocabularies[one.name] for one in signature.features if one.ids == "vocabulary"}
    save_all(folder / VOCABULARY, wanted)


def read(folder: Path, signature: Signature) -> dict[str, Vocabulary]:
    """The raw ids of an export, by feature; empty where it is asked with rows.

    Raises:
        DataError: a file is missing or damaged.
    """
    return {one.name: _read(folder, one) for one in signature.features if one.ids != "rows"}


def with_rows(table: pa.Table, signature: Signature, vocabularies: Mapping[str, Vocabulary]) -> pa.Table:
    """A request with rows in the place of raw ids; columns that it lacks are named later.

    Raises:
        DataError: values of another kind, or without a row where the schema has none for unknown ones.
    """
    return _changed(table, signature, vocabularies, Vocabulary.rows_of)


def with_values(table: pa.Table, signature: Signature, vocabularies: Mapping[str, Vocabulary]) -> pa.Table:
    """Rows of a training batch as a request asks for them; of a hash, with a value that has the same row."""
    return _changed(table, signature, vocabularies, Vocabulary.values_of)


def described(feature: ServedFeature) -> str:
    """For people: how a feature's raw ids become rows."""
    if feature.ids == "rows":
        return f"rows of the table, whole numbers from 0 to {feature.size - 1}"
    first = int(feature.unknown)
    bytes_of = {"text": "UTF-8 bytes", "integer": "8 little-endian bytes"}[feature.raw]
    how = {
        "vocabulary": f"the row is the value's place in {VOCABULARY}/{feature.name}.parquet",
        "hash": f"the row is {first} + h mod {feature.size - first}, h the 64-bit FNV-1a hash of its {bytes_of}",
    }[feature.ids]
    others = "null" if feature.ids == "hash" else "null and unknown values"
    unknown = "row 0" if feature.unknown else "refused"
    return f"any {feature.raw}; {how}; {others}: {unknown}"


def _read(folder: Path, one: ServedFeature) -> Vocabulary:
    feature = SparseFeature(one.name, one.size, ids=one.ids, unknown=one.unknown)
    if one.ids == "vocabulary":
        return load(folder / VOCABULARY / f"{one.name}.parquet", feature)
    unknown = int(one.unknown)
    return Vocabulary(feature, pa.nulls(unknown, KINDS[one.raw]), np.zeros(unknown, np.int64))


def _changed(
    table: pa.Table,
    signature: Signature,
    vocabularies: Mapping[str, Vocabulary],
    change: Callable[[Vocabulary, pa.ChunkedArray, str], pa.Array],
) -> pa.Table:
    by_column = dict(vocabularies)
    if signature.item_feature in vocabularies:
        by_column[ITEMS] = vocabularies[signature.item_feature]
    for name in (name for name in by_column if name in table.column_names):
        place = table.column_names.index(name)
        table = table.set_column(place, name, change(by_column[name], table[name], name))
    return table
