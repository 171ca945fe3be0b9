"""Score an export with torch, numpy and pyarrow alone: python score_bare.py EXPORT FILE.parquet (no history)."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

folder, table = Path(sys.argv[1]), pq.read_table(sys.argv[2])
signature = json.loads((folder / "signature.json").read_text())
inputs = {"user": np.arange(table.num_rows)}  # every row a user of its own
for name, of_user in (("user_values", True), ("values", False)):
    names = [one["name"] for one in signature["features"] if one["of_user"] == of_user]
    if names:
        inputs[name] = np.stack([table[n].to_numpy() for n in names], axis=1)
if signature["dense"]:
    inputs["dense"] = np.stack([table[n].to_numpy() for n in signature["dense"]], axis=1).astype(np.float32)
arrays = [np.load(path) for path in (folder / "tables" / f"{n}.npy" for n in signature["arrays"])]
arguments = [torch.from_numpy(a) for a in [*arrays, *(inputs[one["name"]] for one in signature["inputs"])]]
logits = torch.export.load(folder / "program.pt2").module(check_guards=False)(*arguments)
print("\n".join(" ".join(f"{x:.6f}" for x in row) for row in logits.tolist()))
