"""What a folder of days holds beside them: history events from before, and content vectors. Free of torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.errors import DataError, nearest
from distill.parquet import ParquetPart
from distill.rows import check_columns, maturity_columns
from distill.schema import FeatureSchema
from distill.sources.columns import VECTOR, domains_by_index, integers, vectors
from distill.sources.raw_ids import as_rows
from distill.sources.writer import PreparedWriter


def add_events(writer: PreparedWriter, part: ParquetPart) -> None:
    """History events from a file, row group by row group."""
    schema = writer.schema
    needed = ["user_id", "timestamp", schema.item_feature, "domain"]
    check_columns(part.columns, schema, str(part.path), needed)
    optional = [*(f"label_{task}" for task in schema.tasks), *maturity_columns(schema)]
    wanted = needed + [name for name in optional if name in part.columns]
    for group in range(len(part.row_groups)):
        table = as_rows(part.read(wanted, group), writer.vocabularies, part.path)
        table = domains_by_index(table, schema, part.path)
        user, time, item, domain = (integers(table, name, part.path) for name in needed)
        labels = _by_task(table, "label", schema, -1, part.path)
        writer.add_events(user, time, item, domain, labels, _by_task(table, "matures", schema, 0, part.path))


def add_content(writer: PreparedWriter, folder: Path) -> None:
    """Content vectors from the files of a folder, row group by row group; those of items without a row are left out.

    Raises:
        DataError: a file or column is missing, or something else than vectors of the schema's width in it.
    """
    schema = writer.schema
    for name in schema.content:
        path = folder / f"{name}.parquet"
        if not path.is_file():
            there = sorted(other.stem for other in folder.glob("*.parquet"))
            raise DataError(
                f"{path}: no such file; schema.yaml names the modality '{name}'. {nearest(name, there)}".rstrip()
            )
        part = ParquetPart(path)
        check_columns(part.columns, schema, str(path), [schema.item_feature, VECTOR])
        if not sum(part.row_groups):
            raise DataError(f"{path}: holds no vectors. Fill it, or take '{name}' out of schema.yaml.")
        for group in range(len(part.row_groups)):
            table = part.read([schema.item_feature, VECTOR], group)
            if schema.item_feature in writer.vocabularies:
                vocabulary = writer.vocabularies[schema.item_feature]
                known = vocabulary.holds(table[schema.item_feature], f"{path}: {schema.item_feature}")
                table = as_rows(table.filter(known), writer.vocabularies, path)
            item = integers(table, schema.item_feature, path)
            writer.add_content(name, item, vectors(table, item, schema.content[name].width, path))


def _by_task(table: pa.Table, kind: str, schema: FeatureSchema, missing: int, path: Path) -> np.ndarray:
    """Columns `<kind>_<task>` as int64 [E, K]; `missing` where there is no column or no value."""
    values = np.full((table.num_rows, len(schema.tasks)), missing, np.int64)
    for k, task in enumerate(schema.tasks):
        name = f"{kind}_{task}"
        if name in table.column_names:
            filled = table.set_column(
                table.column_names.index(name), name, pc.fill_null(table[name], missing)
            )
            values[:, k] = integers(filled, name, path)
    return values
