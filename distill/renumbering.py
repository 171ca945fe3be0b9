"""A model that goes on where another ended needs tables whose rows still stand for the same values.

A snapshot keeps what its rows stood for as a digest. New values after the old ones are fine; anything else would hand
the rows of one user to another, and no shape would tell. Of features whose ids are row numbers nothing is known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.tensor_file import open_tensors
from distill.vocabulary import VOCABULARY, Vocabulary, fnv1a

META = "vocabularies"
"""Among the facts of a snapshot; absent where every feature's ids are row numbers."""


def numbering(vocabularies: Mapping[str, Vocabulary]) -> dict[str, Any]:
    """What the rows of a data set's tables stand for, as facts of a snapshot."""
    facts = {name: _of_feature(vocabulary, None) for name, vocabulary in vocabularies.items()}
    return {META: facts} if facts else {}


def refuse_renumbered(path: Path, vocabularies: Mapping[str, Vocabulary]) -> None:
    """Refuse to start from a snapshot whose rows stand for other values.

    Args:
        path: of the snapshot.
        vocabularies: of the data that the model is to be trained on.

    Raises:
        UserError: names the feature.
    """
    with open_tensors(path) as file:
        before = file.meta.get(META, {})
    for name in before.keys() & vocabularies.keys():
        found = _of_feature(vocabularies[name], before[name].get("values"))
        if found != before[name]:
            raise UserError(
                f"start: {name}: its rows stand for other values than in {path} (got {found}, allowed: {before[name]})."
                f" New values come after the old ones: put {VOCABULARY}/{name}.parquet of the earlier prepared data "
                "set into the folder of your data; a hash keeps its size."
            )


def _of_feature(vocabulary: Vocabulary, first: int | None) -> dict[str, Any]:
    """Facts of one feature; of a vocabulary, those of its first values."""
    feature = vocabulary.feature
    plain = {"ids": feature.ids, "unknown": feature.unknown, "kind": vocabulary.kind}
    if feature.ids == "hash":
        return plain | {"size": feature.size}
    values = vocabulary.values.drop_null()[:first]
    return plain | {"values": len(values), "sha256": hashlib.sha256(fnv1a(values).tobytes()).hexdigest()}
