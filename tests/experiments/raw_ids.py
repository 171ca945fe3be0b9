"""The days of a tiny experiment with raw ids: users by name, a hashed shop and hashed words beside the items' row
numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml


def with_raw_ids(root: Path) -> Path:
    """Change what `write_days` wrote.

    Args:
        root: its folder.

    Returns:
        The same folder: `user_id` is a text that a vocabulary numbers, `shop` a whole number, hashed into 16 rows, and
        `words` are none to two texts, hashed into 8.
    """
    for path in sorted(root.glob("*/rows.parquet")):
        table = pq.read_table(path, partitioning=None)
        users = pa.array([f"user {n:03d}" for n in table["user_id"].to_pylist()])
        table = table.set_column(table.column_names.index("user_id"), "user_id", users)
        shops = pa.array(table["item_id"].to_numpy() % np.int64(40) - 2**50)
        words = pa.array([[f"word {n % 7}", "all"][: n % 3] for n in table["item_id"].to_pylist()])
        pq.write_table(table.append_column("shop", shops).append_column("words", words), path)
    schema = yaml.safe_load((root / "schema.yaml").read_text())
    schema["sparse"]["user_id"] = {"group": "user", "ids": "vocabulary"}
    schema["sparse"]["shop"] = {"group": "item", "ids": "hash", "size": 16}
    schema["sparse"]["words"] = {"group": "item", "ids": "hash", "size": 8, "multi": True}
    (root / "schema.yaml").write_text(yaml.safe_dump(schema, sort_keys=False))
    return root
