"""What a model asks of the schema: tasks, features, history. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable

from distill.errors import UserError, nearest
from distill.schema import FeatureSchema


def check_inputs(
    schema: FeatureSchema,
    tasks: Iterable[str],
    features: Iterable[str],
    dense_features: Iterable[str] = (),
    history_length: int = 0,
    content: Iterable[str] = (),
) -> None:
    """Refuse what the data set does not have.

    Args:
        schema: the data set's schema.
        tasks: tasks the model predicts; at least one.
        features: sparse features it reads; at least one.
        dense_features: dense features it reads.
        history_length: events of the user's past it asks for; their ids share the item feature's table.
        content: modalities whose content vectors it reads.

    Raises:
        UserError: an unknown or repeated name (with the nearest one), none at all, or a history without the
        item
            feature.
    """
    features = tuple(features)
    _check_names("tasks", tasks, schema.task_names, at_least=1)
    _check_names("features", features, tuple(schema.sparse), at_least=1)
    _check_names("dense", dense_features, schema.dense, at_least=0)
    _check_names("content", content, tuple(schema.content), at_least=0)
    if history_length < 0:
        raise UserError(f"options.history_length: got {history_length}, allowed: 0 (no history) or more")
    if history_length and schema.item_feature not in features:
        raise UserError(
            f"features: got {', '.join(features)}; the history's items share the table of "
            f"'{schema.item_feature}': add it, or set options.history_length to 0"
        )


def _check_names(field: str, names: Iterable[str], allowed: tuple[str, ...], at_least: int) -> None:
    names = tuple(names)
    listed = ", ".join(allowed) or "none (the data set has none)"
    for name in names:
        if name not in allowed:
            raise UserError(f"{field}: got '{name}', allowed: {listed}. {nearest(name, allowed)}".rstrip())
        if names.count(name) > 1:
            raise UserError(f"{field}: '{name}' stands twice in {', '.join(names)}; name it once")
    if len(names) < at_least:
        raise UserError(f"{field}: got none, allowed: at least one of {listed}")
