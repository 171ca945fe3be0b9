"""Score Parquet rows with an export.

Writes the logits of every row, `logit_<task>`, beside its `example_id` where it has one. signature.json in the export
names the columns that are read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distill.errors import UserError
from experiments.cli.common import folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Export, file, and where the logits go."""
    parser.add_argument("export", metavar="EXPORT", help="folder that `distill export` wrote")
    parser.add_argument("file", metavar="FILE", type=Path, help="Parquet file with the student's features")
    parser.add_argument("--out", type=Path, metavar="FILE", help="logits; FILE.scored.parquet unless given")
    parser.add_argument(
        "--backend", choices=("program", "compiled"), help="compiled where the export has it, unless given"
    )


def run(args: argparse.Namespace) -> int:
    """Score, write, and say how many rows went where."""
    path = folder(args.export, "a folder that `distill export` wrote")
    if not args.file.is_file():
        raise UserError(f"{args.file}: got no such file, allowed: a Parquet file")
    import pyarrow as pa
    import pyarrow.parquet as pq

    from distill.files import atomic_path
    from students.export import Export

    export = Export.load(path, args.backend)
    try:
        table = pq.read_table(args.file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{args.file}: not a readable Parquet file: {error}") from error
    scored = {f"logit_{task}": logits for task, logits in export.score(table).items()}
    if "example_id" in table.column_names:
        scored = {"example_id": table["example_id"], **scored}
    target = args.out or args.file.with_suffix(".scored.parquet")
    with atomic_path(target) as temporary:
        pq.write_table(pa.table(scored), temporary)
    print(f"Scored {table.num_rows} rows ({export.backend}, {export.signature.precision} tables): {target}")
    return 0
