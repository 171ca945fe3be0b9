"""What a feature schema must obey, whatever form it is read from. Free of torch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from distill.errors import DataError
from distill.plain_form import is_count

if TYPE_CHECKING:
    from distill.schema import FeatureSchema, SparseFeature

GROUPS = ("user", "item", "context")
IDS = ("rows", "vocabulary", "hash")
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]*")


def check_schema(schema: FeatureSchema) -> None:
    """Refuse a schema that contradicts itself.

    Raises:
        DataError: names the file, where the schema comes from one, and the key.
    """
    where = schema.source or schema.name
    for feature in schema.sparse.values():
        _check_feature(feature, f"{where}: sparse.{feature.name}")
    for task in schema.tasks.values():
        if not is_count(task.window_ms):
            raise DataError(
                f"{where}: tasks.{task.name}.window_ms: got {task.window_ms!r}, allowed: milliseconds >= 0"
            )
    unknown = [v for v in schema.verticals if v not in schema.domains]
    if unknown:
        raise DataError(f"{where}: verticals: got {unknown}, allowed: {', '.join(schema.domains)}")
    for label, names in (
        ("domains", schema.domains),
        ("verticals", schema.verticals),
        ("dense", schema.dense),
    ):
        if len(set(names)) != len(names):
            raise DataError(f"{where}: {label}: a name stands twice in {list(names)}")
    if schema.item_feature not in schema.sparse:
        raise DataError(
            f"{where}: history.item: got '{schema.item_feature}', allowed: a sparse feature: {', '.join(schema.sparse)}"
        )
    _check_content(schema, where)
    ends = [day.end_ms for day in schema.days]
    if any(later <= earlier for earlier, later in zip(ends, ends[1:], strict=False)):
        raise DataError(f"{where}: days: end_ms must rise from day to day, got {ends}")


def _check_feature(feature: SparseFeature, where: str) -> None:
    for name, allowed in (("group", GROUPS), ("ids", IDS)):
        if getattr(feature, name) not in allowed:
            raise DataError(f"{where}.{name}: got '{getattr(feature, name)}', allowed: {', '.join(allowed)}")
    for name in ("multi", "unknown"):
        if not isinstance(getattr(feature, name), bool):
            raise DataError(f"{where}.{name}: got {getattr(feature, name)!r}, allowed: true or false")
    # A hash needs a row beside that of unknown values; a vocabulary may leave its size to the data.
    least = {"rows": 1, "vocabulary": 0, "hash": 1 + feature.unknown}[feature.ids]
    if not is_count(feature.size) or feature.size < least:
        raise DataError(f"{where}.size: got {feature.size!r}, allowed: an integer >= {least}")
    if feature.name == "user_id" and feature.ids == "hash":
        raise DataError(
            f"{where}.ids: got 'hash', allowed: rows or vocabulary. Users with one hash would share one past; hash a "
            "copy of the column under another name."
        )


def _check_content(schema: FeatureSchema, where: str) -> None:
    for name, content in schema.content.items():
        if not _FOLDER_NAME.fullmatch(name):
            raise DataError(f"{where}: content: got '{name}', allowed: a name of letters, digits and _ + -")
        if name in schema.sparse or name in schema.dense:
            raise DataError(
                f"{where}: content: got '{name}', which is a feature already; give it another name"
            )
        if not is_count(content.width) or content.width < 1:
            raise DataError(f"{where}: content.{name}.width: got {content.width!r}, allowed: an integer >= 1")
    if schema.content and schema.sparse[schema.item_feature].multi:
        raise DataError(
            f"{where}: content: vectors belong to the one item of an example, but '{schema.item_feature}' "
            "(history.item) is multi; name a feature with one id"
        )
    if schema.content and schema.sparse[schema.item_feature].ids == "hash":
        raise DataError(
            f"{where}: sparse.{schema.item_feature}.ids: got 'hash', allowed: rows or vocabulary. Items with one hash "
            "would share one content vector."
        )
