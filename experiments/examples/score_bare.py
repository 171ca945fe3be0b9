"""Score an export with torch, numpy and pyarrow alone: python score_bare.py EXPORT FILE.parquet (no history)."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

folder, table = Path(sys.argv[1]), pq.read_table(sys.argv[2])
signature = json.loads((folder / "signature.json").read_text())


def fnv1a(value):  # 64 bits, over the UTF-8 bytes of a text or the 8 little-endian bytes of a whole number
    h = 0xCBF29CE484222325
    for byte in value.encode() if isinstance(value, str) else value.to_bytes(8, "little", signed=True):
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


def rows(one, column):  # of a feature's raw ids
    first = int(one["unknown"])
    if one["ids"] == "vocabulary":
        known = pq.read_table(folder / "vocabulary" / f"{one['name']}.parquet")["value"]
        column = pc.index_in(column, value_set=known)
    elif one["ids"] == "hash":
        distinct = column.dictionary_encode()
        hashes = [first + fnv1a(value) % (one["size"] - first) for value in distinct.dictionary.to_pylist()]
        column = pa.array(hashes, pa.int64()).take(distinct.indices)
    if column.null_count and (one["ids"] == "rows" or not first):
        sys.exit(f"{one['name']}: got {column.null_count} values without a row")
    return column.fill_null(0).to_numpy().astype(np.int64)


inputs = {"user": np.arange(table.num_rows)}  # every row a user of its own
for name, of_user in (("user_values", True), ("values", False)):
    single = [one for one in signature["features"] if not one["multi"] and one["of_user"] == of_user]
    if single:
        inputs[name] = np.stack([rows(one, table[one["name"]].combine_chunks()) for one in single], axis=1)
for one in (one for one in signature["features"] if one["multi"]):
    lists = table[one["name"]].combine_chunks()
    inputs[f"values_{one['name']}"] = rows(one, lists.flatten())
    inputs[f"offsets_{one['name']}"] = np.cumsum([0, *pc.list_value_length(lists).to_pylist()])
if signature["dense"]:
    inputs["dense"] = np.stack([table[n].to_numpy() for n in signature["dense"]], axis=1).astype(np.float32)
arrays = [np.load(path) for path in (folder / "tables" / f"{n}.npy" for n in signature["arrays"])]
arguments = [torch.from_numpy(a) for a in [*arrays, *(inputs[one["name"]] for one in signature["inputs"])]]
logits = torch.export.load(folder / "program.pt2").module(check_guards=False)(*arguments)
print("\n".join(" ".join(f"{x:.6f}" for x in row) for row in logits.tolist()))
