"""From your own Parquet to a student scored in your own process: python own_parquet.py MY_DATA WORK.

MY_DATA is what distill/sources/parquet.py describes: here six days, with a surface `feed`. Its user_id may be texts
such as "user 7": `user_id: {ids: vocabulary, group: user}` in its schema.yaml numbers them, and the export knows them.
"""

import sys
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from experiments.__main__ import main
from students.export import Export


def ship(data: Path, work: Path) -> None:
    experiment = {
        "name": "mine",
        "output": str(work / "run"),
        "data": {"source": "parquet", "root": str(data), "cache": str(work / "cache")},
        "teacher": {"options": {"dim": 8, "history_length": 6, "layers": 1, "mlp": [16]}},
        "channels": {"ah": {"ah": {}}},
        "students": [{"name": "small", "verticals": ["feed"], "options": {"dim": 8}}],
        "schedule": {"tune_days": [4, 5], "test_days": [6]},
        "wandb": {"enabled": False},
    }
    work.mkdir(parents=True, exist_ok=True)
    (work / "mine.yaml").write_text(yaml.safe_dump(experiment))
    student = ["small", "--channel", "ah", "--precision", "fp16", "--no-compile", "--to", str(work / "small")]
    if main(["run", str(work / "mine.yaml")]) or main(["export", str(work / "run"), *student]):
        sys.exit("training or export failed")
    rows = pq.read_table(sorted(data.glob("date=*/*.parquet"))[-1])  # ids as they are in the log
    for task, logits in Export.load(work / "small").score(rows).items():
        print(task, len(logits), logits.mean())


if __name__ == "__main__":  # students are trained in processes that import this file
    ship(Path(sys.argv[1]), Path(sys.argv[2]))
