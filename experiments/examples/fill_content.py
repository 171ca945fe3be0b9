"""Content vectors for data of your own, with any encoder: titles in, one Parquet file of vectors out.

    python experiments/examples/fill_content.py titles.csv my_data/content/text.parquet

titles.csv has the columns item_id (or how your schema calls the item) and title. Then name the modality in
my_data/schema.yaml, and in the experiment the model that is to read it (content_student.py beside this file is one):

    content:                        # schema.yaml
      text: {width: 64}

    students:                       # experiment.yaml
      - {name: reader, architecture: content_student.py:ContentStudent, content: [text], verticals: [feed]}

`encode` is the place of your encoder. The stand-in hashes words, so that nothing has to be downloaded; with
sentence-transformers, for one, its body would be `SentenceTransformer(NAME).encode(titles)`, and for images or sound
only the input differs.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

WIDTH = 64


def encode(titles: Sequence[str], width: int = WIDTH) -> np.ndarray:
    """Vectors of titles, float32 [N, width], of length 1: each word adds 1 or -1 at a place that its hash names."""
    vectors = np.zeros((len(titles), width), np.float32)
    for row, title in enumerate(titles):
        for word in title.lower().split():
            code = zlib.crc32(word.encode())
            vectors[row, code % width] += 1.0 if code >> 31 else -1.0
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def write_vectors(path: Path, item: str, ids: pa.ChunkedArray, vectors: np.ndarray) -> None:
    """The file that the source `parquet` reads: an item without a vector simply has no row in it."""
    flat = pa.array(vectors.astype(np.float32).ravel())
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({item: ids, "vector": column}), path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read titles, encode them, write vectors."""
    parser = argparse.ArgumentParser(description="Content vectors of items from their titles.")
    parser.add_argument("titles", help="CSV file with the columns of the item and of the title")
    parser.add_argument("vectors", type=Path, help="file to write: content/<modality>.parquet of your data")
    parser.add_argument("--item", default="item_id", help="the schema's item feature (default %(default)s)")
    parser.add_argument("--title", default="title", help="column of the titles (default %(default)s)")
    options = parser.parse_args(arguments)
    table = pyarrow.csv.read_csv(options.titles)
    titles = pc.fill_null(table[options.title].cast(pa.string()), "")
    table, titles = table.filter(pc.not_equal(titles, "")), titles.filter(pc.not_equal(titles, ""))
    write_vectors(options.vectors, options.item, table[options.item], encode(titles.to_pylist()))
    print(f"{table.num_rows} vectors of {WIDTH} numbers: {options.vectors}")


if __name__ == "__main__":
    main()
